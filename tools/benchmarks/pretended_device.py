"""A pretended GPU, for machines that have none.

Its tensors say that they are on 'gpu:0', while their numbers lie on the CPU
and are computed there. So a whole run goes through, and

- an operator on tensors of two devices raises ``DeviceMixError``, as on a GPU;
- where the host would wait for the device, that is counted in ``WAITS``, with
  the line of the package (or of the library) that asked;
- operators that would start kernels are counted in ``KERNELS``.

Importing this gives torch the device for as long as the process lives. It
takes no time as a GPU takes it. Copies with ``non_blocking=True`` to the
device count as no wait: that the memory is pinned is not seen here.
"""
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration as backend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

WAITS: Counter[tuple[str, str]] = Counter()
KERNELS: Counter[str] = Counter()
aten = torch.ops.aten
# Operators whose result's size, or value, the host has to know
_ASKING = {
    '_local_scalar_dense': 'item', 'is_nonzero': 'item', 'equal': 'equal',
    'nonzero': 'nonzero', 'masked_select': 'masked_select',
    '_unique2': 'unique', 'unique_dim': 'unique', 'unique_consecutive':
    'unique', 'bincount': 'bincount', 'repeat_interleave.Tensor':
    'repeat_interleave', '_linalg_eigh': 'eigh'
}
_NO_KERNEL = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'detach',
              'alias', '_unsafe_view', '_local_scalar_dense'}
_LIBRARIES = ('mmengine', 'mmpretrain', 'mmcv', 'torchvision', 'optim')


class DeviceMixError(RuntimeError):
    """Tensors of two devices in one operator."""


class _Hook(backend._DummyPrivateUse1Hook):

    def get_default_generator(self, index: int) -> torch.Generator:
        """The CPU's."""
        return torch.default_generator


class _Module(backend._DummyBackendModule):

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Of autocast."""
        return [torch.float16, torch.bfloat16]


backend._setup_privateuseone_for_python_backend(
    'gpu', backend_module=_Module(), hook=_Hook())
DEVICE = torch.device('gpu:0')


class _Held(Tensor):
    """A tensor of the device, and the one of the CPU that it stands for."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> '_Held':
        tensor = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype,
            device=DEVICE)
        tensor.held = held
        return tensor

    __torch_function__: Any = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
            cls, function: Any, types: Any, args: Any = (),
            kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})

    def tolist(self) -> Any:
        """As of a tensor, for which torch has no hook."""
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict) -> Any:
        if id(self) not in memo:
            copy: Any = _Held(self.held.detach().clone())
            if isinstance(self, nn.Parameter):
                copy = nn.Parameter(copy)
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return memo[id(self)]


class Pretended(TorchDispatchMode):
    """Code on the device runs in this context."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def there(value: Any) -> bool:
    """Whether something is a tensor of the device."""
    return isinstance(value, Tensor) and value.device.type == 'gpu'


def _run(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU, and count what it would do on a GPU."""
    tensors = [one for one in tree_leaves((args, kwargs))
               if isinstance(one, Tensor)]
    ours = [one for one in tensors if there(one)]
    wanted = kwargs.get('device')
    wanted = None if wanted is None else torch.device(wanted).type
    if ours or wanted == 'gpu':
        _count(function, args, kwargs, tensors, wanted)
    plain = dict(kwargs)
    if wanted == 'gpu':
        plain['device'] = torch.device('cpu')
    result = function(*tree_map_only(_Held, lambda one: one.held, args),
                      **tree_map_only(_Held, lambda one: one.held, plain))
    written = [
        given for given, argument in _given(function, args, kwargs)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    returns = function._schema.returns
    if written and returns and returns[0].alias_info is not None and (
            returns[0].alias_info.is_write):
        return written[0] if len(returns) == 1 else tuple(written)
    if not (wanted == 'gpu' if wanted else ours):
        return result
    return tree_map_only(Tensor, _Held, result)


def _given(function: Any, args: tuple,
           kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Arguments, each with what the schema says of it."""
    schema = function._schema.arguments
    by_name = {argument.name: argument for argument in schema}
    return [*zip(args, schema),
            *((value, by_name[name]) for name, value in kwargs.items())]


def _count(function: Any, args: tuple, kwargs: dict[str, Any],
           tensors: list[Tensor], wanted: str | None) -> None:
    """Count waits and kernels; refuse what a GPU refuses."""
    name = function._schema.name.split('::')[1]
    alias = function._schema.returns and (
        function._schema.returns[0].alias_info)
    if not (alias and not alias.is_write) and name not in _NO_KERNEL:
        KERNELS[name] += 1
    whole = f'{name}.{function._overloadname}'
    kind = _ASKING.get(whole, _ASKING.get(name))
    if kind is not None:
        WAITS[kind, _place()] += 1
    if name == '_to_copy':
        source = 'gpu' if there(args[0]) else 'cpu'
        if source != (wanted or source) and not (
                kwargs.get('non_blocking') and wanted == 'gpu'):
            WAITS[f'copy {source} to {wanted}', _place()] += 1
        return
    if name == 'copy_':
        to, source = ('gpu' if there(one) else 'cpu' for one in args[:2])
        later = kwargs.get('non_blocking') or len(args) > 2 and args[2]
        if to != source and not (later and to == 'gpu'):
            WAITS[f'copy {source} to {to}', _place()] += 1
        return
    others = [one for one in tensors if not there(one)]
    if name in ('index', 'index_put', 'index_put_', '_index_put_impl_'):
        for index in args[1]:
            if isinstance(index, Tensor) and not there(index):
                WAITS['index copied', _place()] += 1
            elif isinstance(index, Tensor) and index.dtype in (
                    torch.bool, torch.uint8):
                WAITS['nonzero', _place()] += 1
        others = [one for one in (args[0], *args[2:3])
                  if isinstance(one, Tensor) and not there(one)]
    generator = kwargs.get('generator')
    if any(one.dim() for one in others) or (
            generator is not None and generator.device.type == 'cpu'):
        raise DeviceMixError(
            f'{function} at {_place()}: '
            f'{[(tuple(one.shape), str(one.device)) for one in tensors]}'
            + ', generator of the CPU' * (generator is not None))


def _place() -> str:
    """The line that asked: of this package, else of a library."""
    library = ''
    frame = sys._getframe(2)
    while frame is not None:
        path, line = frame.f_code.co_filename, frame.f_lineno
        if '/cyborgs_plugin/' in path:
            return f'{path.split("/cyborgs_plugin/")[-1]}:{line}'
        parts = path.split('/')
        if not library and any(name in parts for name in _LIBRARIES):
            library = f'{"/".join(parts[-3:])}:{line}'
        frame = frame.f_back  # type: ignore[assignment]
    return library or 'elsewhere'


def to_device(module: nn.Module) -> nn.Module:
    """Move a module in place, as ``module.to('cuda')`` does.

    Args:
        module (nn.Module): Its parameters become new ones.
    """
    memo: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not there(parameter):
                if id(parameter) not in memo:
                    memo[id(parameter)] = nn.Parameter(
                        _Held(parameter.detach()), parameter.requires_grad)
                part._parameters[name] = memo[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None and not there(buffer):
                part._buffers[name] = _Held(buffer)
    parts: Any = module.modules()
    for one in parts:
        if hasattr(one, 'avg_parameters'):  # an averaged model's own dict
            one.avg_parameters = (
                one.module.state_dict() if one.update_buffers else dict(
                    one.module.named_parameters()))
        if hasattr(one, '_device'):  # a data preprocessor
            one._device = DEVICE
    return module


def _below_python(function: Any) -> Any:
    """An operator that torch itself asks for, under its hooks in Python."""
    def run(*args: Any, **kwargs: Any) -> Any:
        return _run(function, args, kwargs)
    return run


# Such as for the list of an index, x[:, [2, 1, 0]]
_LIBRARY = torch.library.Library('aten', 'IMPL')
for _operator in (aten.empty_strided.default, aten.empty.memory_format,
                  aten.copy_.default, aten._to_copy.default):
    _LIBRARY.impl(_operator, _below_python(_operator), 'PrivateUse1')
