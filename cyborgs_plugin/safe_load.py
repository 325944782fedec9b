"""Reading checkpoints of others without running their code.

A pickle names the functions that make its objects, so reading one can run any
code. :func:`load_weights` reads all files of ``torch.save``, and
:func:`loading_safely` makes mmengine use it too. mmengine's own loader trusts
a pickle if it holds more than weights.
"""
import functools
import graphlib
import io
import os
import os.path as osp
import pickle
import pickletools
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from .commands import command
from .errors import MissingFileError, UserError
from .files import check_name_hash

Tensors = dict[str, torch.Tensor]

# Addresses that mmengine downloads from; its other types need a client of a
# company's storage, which reads pickles itself.
ADDRESSES = ('http://', 'https://', 'torchvision://', 'open-mmlab://',
             'openmmlab://', 'mmcls://')
# Limits for the values of a pickle: depth of nesting, and number of values,
# counting each as often as it is referred to.
MAX_DEPTH, MAX_SIZE = 200, 10**7
# Bytes. mmengine's log needs most: up to 16 MB per curve, times 1.5 as text.
MAX_PICKLE = 2**29
VARIABLES = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD',
             'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')
# Numbers in the machine's byte order, and objects.
DTYPE = r'[?bhilqBHILQefdFDO]|[biufc]\d{1,2}|O8'


class KnotError(UnpicklingError):
    """A pickle of plain values that could still crash or block the reader."""


def load_weights(path: str,
                 map_location: Any = 'cpu',
                 log: bool = False,
                 trustable: bool = False) -> dict[str, Any]:
    """Read a file of ``torch.save`` without running code in it.

    Args:
        path (str): A file of any version of torch.
        map_location (Any): As ``torch.load`` takes it. Defaults to 'cpu'.
        log (bool): Whether to also accept the log of mmengine's training
            checkpoints, which holds arrays. Defaults to False.
        trustable (bool): Whether ``--trust-checkpoint`` can read a refused
            file. Defaults to False.

    Returns:
        dict: The content.

    Raises:
        UserError: If the file is missing, damaged or altered, asks for code,
            or holds no dict. The message names the file.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise MissingFileError(f'{path}: no such file')
    try:
        check_name_hash(path)
        _check_pickles(path)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of other protocols
            content = _read(path, map_location, _log_names() if log else [])
    except KnotError as error:
        raise UserError(f'{path} is refused: {error}, as in no '
                        'checkpoint') from error
    except UnpicklingError as error:
        asked = _asked(error)
        fix = ('If you trust where it comes from, load it there and save its '
               'state_dict only, with torch.save')
        if trustable:
            fix += ', or give --trust-checkpoint'
        if not log and _is_of_log(asked):
            publish = command('model_converters/publish_backbone', path)
            fix = (f'`{publish}` turns a training checkpoint into a file '
                   f'that can be read. {fix}')
        raise UserError(
            f'{path} is refused: it holds more than tensors and plain '
            'containers, objects whose code would run as they are read '
            f'({asked}). {fix}') from error
    except (UserError, torch.cuda.OutOfMemoryError):
        raise
    except PermissionError as error:
        raise UserError(
            f'{path} may not be read by this user ({one_line(error)}): ask '
            'its owner for the right to (chmod a+r)') from error
    except Exception as error:  # a hostile file may raise any
        raise UserError(
            f'{path} ({osp.getsize(path)} bytes) is truncated, damaged, or '
            f'no file of torch.save ({one_line(error)}): copy it again, or '
            'take an earlier checkpoint') from error
    check_structure(content, path)
    return content


def _read(path: str, map_location: Any, names: list) -> Any:
    """Read tensors, plain containers and the given names."""
    if hasattr(torch.serialization, 'safe_globals'):
        with torch.serialization.safe_globals(names):
            return torch.load(
                path, map_location=map_location, weights_only=True)
    # With these, torch would accept no other pickle module.
    forced = os.environ.pop(VARIABLES[0], None)
    try:
        return torch.load(
            path,
            map_location=map_location,
            weights_only=False,
            pickle_module=_Narrow(names))
    finally:
        if forced is not None:
            os.environ[VARIABLES[0]] = forced


class _Narrow:
    """A pickle module for torch before 2.5, which accepts no list of names.

    It finds what that torch accepts as weights, and the names.
    :func:`check_nesting` has checked that nothing found is altered (BUILD).

    Args:
        names (list): In the form of ``torch.serialization.safe_globals``.
    """

    __name__ = 'pickle'  # torch looks for another

    def __init__(self, names: list) -> None:
        from torch._weights_only_unpickler import _get_allowed_globals
        known = {
            **_get_allowed_globals(), '_codecs.encode': _encode, **{
                one[1] if isinstance(one, tuple) else
                f'{one.__module__}.{one.__qualname__}':
                one[0] if isinstance(one, tuple) else one for one in names
            }
        }

        class Unpickler(pickle.Unpickler):

            def find_class(self, module: str, name: str) -> Any:
                module = dict(__builtin__='builtins').get(module, module)
                if f'{module}.{name}' not in known:
                    raise UnpicklingError(f'GLOBAL {module}.{name} is none '
                                          'of weights')
                return known[f'{module}.{name}']

        self.Unpickler = Unpickler

    def load(self, file: BinaryIO, **options: Any) -> Any:
        """Read the beginning of a file of torch before 1.6."""
        return self.Unpickler(file, **options).load()


def _encode(text: str, encoding: str) -> bytes:
    """Make bytes like pickles of protocol 2."""
    if encoding != 'latin1':
        raise UnpicklingError(f'it asks for the codec {str(encoding)[:20]!r}')
    return text.encode('latin1')


def check_structure(content: Any, path: str) -> None:
    """Check that the content of a file has the parts of a checkpoint.

    Args:
        content (Any): As read from the file.
        path (str): The file, for messages.

    Raises:
        UserError: If a part is wrong; the message names the key.
    """
    if not isinstance(content, dict):
        raise UserError(f'{path} holds no weights by their names but an '
                        f'object of type {type(content).__name__}')
    parts = {
        key: content.get(key, {})
        for key in ('state_dict', 'meta', 'message_hub')
    }
    if isinstance(parts['message_hub'], dict):
        parts.update((f'message_hub.{key}', parts['message_hub'].get(key, {}))
                     for key in ('runtime_info', 'log_scalars'))
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise UserError(f'{path}: its {key!r} is no dict but of type '
                            f'{type(part).__name__}')
    for name in parts['state_dict'] if 'state_dict' in content else content:
        if not isinstance(name, str):
            raise UserError(
                f'{path}: of its state_dict a key is {str(name)[:20]!r} of '
                f'type {type(name).__name__}, but names are texts')


def tensors_of(content: dict[str, Any], path: str) -> Tensors:
    """The tensors of a checkpoint, by their names.

    Args:
        content (dict): From :func:`load_weights`, with a ``state_dict`` or
            without.
        path (str): The file, for messages.

    Returns:
        Tensors: Other values are left out.

    Raises:
        UserError: If one has no plain values, such as a sparse tensor.
    """
    tensors = {
        key: value
        for key, value in content.get('state_dict', content).items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_meta or (
                value.is_quantized):
            raise UserError(f'{path}: {key} is a tensor without plain values '
                            f'({value.dtype}, {value.layout})')
    return tensors


def is_address(name: str) -> bool:
    """Whether weights must be downloaded; refuse unknown addresses.

    Args:
        name (str): A path or an address.

    Raises:
        UserError: If it has ``://`` and is not a known address.
    """
    if '://' in name and not name.startswith(ADDRESSES):
        raise UserError(
            f'{name} is taken for an address, since it holds "://"; weights '
            f'come from a file of this machine or from {", ".join(ADDRESSES)}'
            '. Rename the file, or mount the storage')
    return '://' in name


@contextmanager
def loading_safely(trust: bool = False) -> Iterator[None]:
    """Make mmengine read checkpoints with :func:`load_weights` in this block.

    Args:
        trust (bool): Whether to keep mmengine's own loading, which runs the
            code of a file that is not a plain checkpoint. Defaults to False.
    """
    restore = load_safely(trust)
    try:
        yield
    finally:
        restore()


def load_safely(trust: bool = False) -> Callable[[], None]:
    """Make mmengine read checkpoints with :func:`load_weights` from now on.

    ``torch.load`` itself reads addresses, always with weights only.

    Args:
        trust (bool): See :func:`loading_safely`. Defaults to False.

    Returns:
        Callable: Restores the original loading.
    """
    schemes = CheckpointLoader._schemes
    if trust:
        return _trusting()
    if schemes[''] is load_from_local:
        return lambda: None
    before = {key: os.environ.pop(key, None) for key in VARIABLES}
    os.environ[VARIABLES[0]] = '1'
    CheckpointLoader._schemes = type(schemes)(schemes)
    for prefix, loader in schemes.items():
        CheckpointLoader.register_scheme(
            prefix,
            _downloading(loader) if prefix in ADDRESSES else load_from_local,
            force=True)

    def restore() -> None:
        CheckpointLoader._schemes = schemes
        os.environ.pop(VARIABLES[0], None)
        os.environ.update({k: v for k, v in before.items() if v is not None})

    return restore


def _trusting() -> Callable[[], None]:
    """Make ``torch.load`` read any pickle unless it is told otherwise.

    The maintained mmengine asks for that itself. The original one leaves it to
    torch, which from 2.6 on reads weights only.
    """
    if any(name in os.environ for name in VARIABLES):
        return lambda: None
    os.environ[VARIABLES[1]] = '1'

    def restore() -> None:
        os.environ.pop(VARIABLES[1], None)

    return restore


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load files for mmengine; it shows the end of this name."""
    is_address(filename)
    return _without_config(load_weights(
        filename, map_location, log=True, trustable=True))


def _downloading(loader: Callable) -> Callable:
    """Make a loader of addresses for mmengine that explains its refusals."""

    @functools.wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> dict:
        try:
            content = loader(filename, *args, **kwargs)
        except (UnpicklingError, KeyError, OSError) as error:
            raise UserError(
                f'{filename} is unknown, cannot be had, or holds more than '
                f'weights ({type(error).__name__}: {one_line(error)}): '
                'download it and name the file') from error
        check_structure(content, filename)
        return _without_config(content)

    return load


def _asked(error: UnpicklingError) -> str:
    """What a file has asked for, taken from torch's advice to trust it."""
    text = one_line(error)
    if name := re.search(r'GLOBAL (\S+)', text):
        return name[1]
    for advice in ('from a trusted source. ', 'WeightsUnpickler error: '):
        text = text.rpartition(advice)[2]
    return text.partition(' Check the documentation')[0].rstrip('.')


def _without_config(content: dict) -> dict:
    """Leave out a text that mmengine would run when resuming."""
    if isinstance(content.get('meta'), dict):
        content['meta'].pop('config', None)
    return content


def one_line(error: BaseException, length: int = 1000) -> str:
    """The message of another library's error, for use within one line."""
    text = ' '.join(str(error).split())
    return text if len(text) <= length else f'{text[:length]} ...'


def _log_names() -> list:
    """The parts of mmengine's log, by the names in its pickles."""
    names: list[Any] = [
        HistoryBuffer, np.ndarray, (plain_dtype, 'numpy.dtype'),
        (_statistic, 'builtins.getattr'), (_as_list, 'collections.deque'),
        *{type(np.dtype(code)) for code in np.typecodes['All']
          if re.fullmatch(DTYPE, code)}
    ]
    core = np.ones(1).__reduce__()[0].__module__  # by the version of numpy
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        for name in ('_reconstruct', 'scalar'):
            names.append((getattr(sys.modules[core], name),
                          f'{module}.{name}'))
    return names


def _is_of_log(name: str) -> bool:
    """Whether it is part of mmengine's log, by the name in torch's message."""
    known = {
        one[1] if isinstance(one, tuple) else
        f'{one.__module__}.{one.__qualname__}' for one in _log_names()
    }
    return name in known or f'builtins.{name}' in known


def plain_dtype(code: str, *_: Any) -> np.dtype:
    """A dtype of numpy that no pickle can change.

    The copy that pickles ask for accepts any state, even one that uses numbers
    as addresses of objects.
    """
    if not isinstance(code, str) or not re.fullmatch(DTYPE, code):
        raise UnpicklingError(f'it holds an array of {str(code)[:20]!r}')
    return np.dtype(code)


def _statistic(owner: Any, name: str) -> Any:
    """The only use of getattr in mmengine's log."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current',
                                                  'mean'):
        raise UnpicklingError('it asks for builtins.getattr')
    return getattr(owner, name)


def _as_list(items: Iterable = (), length: int | None = None) -> list:
    return list(items)


def _check_pickles(path: str) -> None:
    """Check the nesting of what torch will read from a file."""
    with open(path, 'rb') as file:
        # torch decides by the beginning, and so must this
        if file.read(4) == b'PK\x03\x04':
            _check_sizes(path)
            record = torch._C.PyTorchFileReader(path).get_record('data.pkl')
            check_nesting(io.BytesIO(record))
            return
        file.seek(0)
        # before 1.6: a number, a version, the system, the object, its keys
        for _ in range(5):
            check_nesting(file)


def _check_sizes(path: str) -> None:
    """Refuse a zip that is larger in memory than on disk."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
            sum(entry.file_size for entry in entries) > osp.getsize(path)):
        raise KnotError('its parts are compressed or lie in each other')
    for entry in entries:
        if entry.filename.endswith('.pkl') and entry.file_size > MAX_PICKLE:
            raise KnotError(f'{entry.filename} has {entry.file_size} bytes, '
                            f'more than {MAX_PICKLE}')


def check_nesting(pickled: BinaryIO) -> None:
    """Refuse a pickle whose values are nested too deeply or too often.

    The hash of a tuple follows every reference, and its recursion crashes the
    interpreter. The values are only counted here, not created.

    Args:
        pickled (BinaryIO): The file; it is read up to the end of the pickle.

    Raises:
        KnotError: If they do.
    """
    leaf, mark = 0, -1  # the others are numbers of rows in these
    parts: list[list[int]] = [[]]
    depth, size = [0], [1]

    def hold(row: int, held: list[int]) -> None:
        parts[row] += [part for part in held if part != leaf]
        measure(row, held)

    def measure(row: int, held: list[int]) -> None:
        depth[row] = max([depth[row], *(1 + depth[part] for part in held)])
        size[row] += sum(size[part] for part in held)
        if depth[row] > MAX_DEPTH or size[row] > MAX_SIZE:
            raise KnotError(
                f'its values lie more than {MAX_DEPTH} deep in each other, '
                f'or are more than {MAX_SIZE}')

    stack: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        if max(len(parts), len(stack), len(memo)) > MAX_SIZE:
            raise KnotError(f'its values are more than {MAX_SIZE}')
        name = opcode.name
        if name == 'MARK':
            stack.append(mark)
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name.endswith('GET'):
            stack.append(memo[int(argument or 0)])
        elif name.endswith('PUT') or name == 'MEMOIZE':
            place: Any = len(memo) if name == 'MEMOIZE' else argument
            memo[int(place)] = stack[-1]
        else:
            taken = _take(stack, opcode, mark)
            if name in ('APPEND', 'APPENDS', 'SETITEM', 'SETITEMS',
                        'ADDITEMS', 'BUILD'):
                if taken[0] == leaf:
                    raise UnpicklingError(f'{name} alters what is no object')
                hold(taken[0], taken[1:])
                stack.append(taken[0])
            elif opcode.stack_after:
                new = leaf
                if taken or name.startswith('EMPTY'):
                    new = len(parts)
                    parts.append([])
                    depth.append(0)
                    size.append(1)
                    hold(new, taken)
                stack.append(new)
    # once more from below: the contents may have grown since
    depth, size = [0] * len(parts), [1] * len(parts)
    try:
        for row in graphlib.TopologicalSorter(
                dict(enumerate(parts))).static_order():
            measure(row, parts[row])
    except graphlib.CycleError as error:
        raise KnotError('one of its values holds itself') from error


def _take(stack: list[int], opcode: pickletools.OpcodeInfo,
          mark: int) -> list[int]:
    """Remove from the stack what an opcode takes, without the mark."""
    before = opcode.stack_before
    count = len(before)
    if pickletools.markobject in before:
        place = len(stack) - 1 - stack[::-1].index(mark)
        count = len(stack) - place + before.index(pickletools.markobject)
    if count > len(stack):
        raise UnpicklingError(f'{opcode.name} finds nothing to take')
    taken = stack[len(stack) - count:]
    del stack[len(stack) - count:]
    return [part for part in taken if part != mark]
