"""Files that hold a backbone: reading safely, naming, checking, writing.

A published file holds ``state_dict`` with every tensor under two names, which
share its storage: the toolbox's own (``conv1.weight``), and the same after the
architecture (``resnet50.conv1.weight``). With ``init_cfg=dict(
type='Pretrained', checkpoint=FILE, prefix='resnet50.')`` mmengine itself
refuses each file that is not of a whole ResNet-50; without a prefix the plain
names are loaded. ``meta`` says how the file was made.
"""
import json
import os
import os.path as osp
import pickle
import re
import zipfile
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from mmpretrain.models import ResNet

from ..errors import MissingFileError, UserError
from ..files import check_name_hash, sha256

Tensors = dict[str, torch.Tensor]

# (bottleneck, blocks of each stage) -> depth
DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152
}


class _Inert:
    """Stands for an object of the log that is not needed: does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Inert':
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> '_Inert':
        return self

    def __setstate__(self, state: Any) -> None:
        pass


class _LogSkipper(pickle.Unpickler):
    """Reads tensors and plain containers; runs no code of the file.

    mmengine's log buffers, numpy's scalars and what they are made with become
    inert objects. Any other name is refused.
    """

    ALLOWED = {('collections', 'OrderedDict'),
               ('torch._utils', '_rebuild_tensor_v2'),
               ('torch._utils', '_rebuild_parameter')}
    HARMLESS = {('_codecs', 'encode'), ('builtins', 'getattr'),
                ('__builtin__', 'getattr'), ('collections', 'deque'),
                ('collections', 'defaultdict'), ('collections', 'Counter')}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED or (
                module == 'torch' and name.endswith('Storage')):
            return super().find_class(module, name)
        if module.split('.')[0] in ('mmengine', 'numpy') or (
                module, name) in self.HARMLESS:
            return _Inert
        raise pickle.UnpicklingError(
            f'it asks for {module}.{name}, which no checkpoint of weights '
            'needs and which could run any code')


def read_checkpoint(path: str, own: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running code that it may hold.

    Args:
        path (str): A file of ``torch.save``.
        own (bool): Whether to pass over the log that mmengine's training
            checkpoints hold as objects. Defaults to False, which takes what
            ``torch.load(weights_only=True)`` takes and nothing else.

    Raises:
        UserError: If the file is missing, damaged, altered, or asks for
            code.
    """
    if not osp.isfile(path):
        raise MissingFileError(f'{path}: no such file')
    check_name_hash(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f'{path} is truncated or not written by torch.save '
                        f'of torch >= 1.6 ({osp.getsize(path)} bytes): copy '
                        'it again, or take an earlier checkpoint')
    try:
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            if not own:
                raise
            return torch.load(
                path,
                map_location='cpu',
                weights_only=False,
                pickle_module=SimpleNamespace(
                    Unpickler=_LogSkipper,
                    load=pickle.load,
                    __name__='log_skipper'))
    except pickle.UnpicklingError as error:
        raise UserError(
            f'{path} is refused: it holds more than tensors and plain '
            'containers, and reading such objects would run their code '
            f'({str(error).splitlines()[0]}). Of a training checkpoint of '
            'tools/train.py publish_backbone.py makes a file that can be '
            'read. If you trust where another comes from, load it there and '
            'save its state_dict alone with torch.save') from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise UserError(f'{path} is damaged ({error}): copy it again, or '
                        'take an earlier checkpoint') from error


def read_backbone(path: str) -> tuple[Tensors, dict[str, Any], str]:
    """Read a published backbone.

    Args:
        path (str): A ``.pth`` or ``.safetensors`` file that
            ``publish_backbone.py`` or ``from_published.py`` wrote.

    Returns:
        tuple[Tensors, dict, str]: Tensors by the toolbox's names, how they
        were made, and the architecture.

    Raises:
        UserError: If the file is damaged or is no published ResNet.
    """
    if path.endswith('.safetensors'):
        from safetensors import SafetensorError, safe_open
        if not osp.isfile(path):
            raise MissingFileError(f'{path}: no such file')
        check_name_hash(path)
        try:
            with safe_open(path, 'pt') as file:
                meta = json.loads((file.metadata() or {}).get('made', '{}'))
                state = {key: file.get_tensor(key) for key in file.keys()}
        except SafetensorError as error:
            raise UserError(f'{path} is damaged ({error}): copy it '
                            'again') from error
    else:
        content = read_checkpoint(path)
        meta = content.get('meta', {})
        state = content.get('state_dict')  # type: ignore[assignment]
        if not isinstance(state, dict):
            raise UserError(f'{path} holds no state_dict but '
                            f'{sorted(map(str, content))[:8]}: publish it '
                            'with publish_backbone.py or from_published.py')
    arch = find_arch(state)
    if arch is None:
        raise UserError(
            f'{path} holds no ResNet under the plain names (conv1.weight, '
            f'layer1.0.conv1.weight, ...); it has {sorted(state)[:4]}: '
            'publish it with publish_backbone.py or from_published.py first')
    prefix = f'{arch}.'
    tensors = {k: v for k, v in state.items() if not k.startswith(prefix)}
    return tensors, meta, arch


def find_arch(tensors: Tensors) -> str | None:
    """Tell the ResNet by its tensors.

    Args:
        tensors (Tensors): By the toolbox's names.

    Returns:
        Optional[str]: ``resnet18`` to ``resnet152``, or None for another
        network.
    """
    blocks = []
    for stage in range(1, 5):
        found = [
            int(match[1]) for match in (re.match(
                rf'layer{stage}\.(\d+)\.conv1\.weight$', key)
                                        for key in tensors) if match
        ]
        blocks.append(max(found, default=-1) + 1)
    depth = DEPTHS.get(('layer1.0.conv3.weight' in tensors, tuple(blocks)))
    return f'resnet{depth}' if depth and 'conv1.weight' in tensors else None


def build_resnet(tensors: Tensors, arch: str, source: str) -> ResNet:
    """Build the toolbox's ResNet with these tensors and no others.

    Args:
        tensors (Tensors): By the toolbox's names.
        arch (str): ``resnet18`` to ``resnet152``.
        source (str): File that is named in errors.

    Returns:
        ResNet: In evaluation mode.

    Raises:
        UserError: If a tensor is missing, superfluous, of another shape, or
            not finite.
    """
    network = ResNet(int(arch[len('resnet'):]))
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f'{source} is no whole {arch}: {error}') from error
    bad = [k for k, v in tensors.items() if not v.float().isfinite().all()]
    if bad:
        raise UserError(f'{source}: {len(bad)} tensors hold NaN or infinite '
                        f'values, such as {bad[0]}: the training has '
                        'diverged; take an earlier checkpoint')
    network.eval()  # mmpretrain's gives nothing back
    return network


def load_frozen(source: str, out_indices: Sequence[int],
                seed: int = 0) -> ResNet:
    """Load a published backbone to take features from.

    Args:
        source (str): A published file, or the name of an architecture, such
            as ``resnet50``, for random weights.
        out_indices (Sequence[int]): Stages that it gives, from 0.
        seed (int): Decides the random weights. Defaults to 0.

    Returns:
        ResNet: In evaluation mode.

    Raises:
        UserError: If the file is damaged or is no published ResNet.
    """
    if re.match(r'resnet(18|34|50|101|152)$', source):
        torch.manual_seed(seed)
        network = ResNet(int(source[len('resnet'):]), out_indices=out_indices)
        network.init_weights()
    else:
        tensors, _, arch = read_backbone(source)
        build_resnet(tensors, arch, source)
        network = ResNet(int(arch[len('resnet'):]), out_indices=out_indices)
        network.load_state_dict(tensors, strict=True)
    network.eval()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return network.to(device)


@torch.no_grad()
def compare_features(network: ResNet,
                     other: Callable[[torch.Tensor], torch.Tensor],
                     target: str) -> float:
    """Compare the last feature map with another library's.

    Args:
        network (ResNet): The toolbox's network.
        other (Callable): Gives the other network's map of stage 4.
        target (str): Name of the other library, for the error.

    Returns:
        float: The largest difference, relative to the largest feature.

    Raises:
        UserError: If it is above 1e-5.
    """
    images = torch.randn(2, 3, 96, 128, generator=torch.manual_seed(0))
    ours, theirs = network(images)[-1], other(images)
    difference = float((ours - theirs).abs().max() / ours.abs().max())
    if not difference <= 1e-5:
        raise UserError(f'The features in {target} differ by {difference:g} '
                        'of the largest one: nothing was written')
    return difference


def write_backbone(tensors: Tensors, made: dict[str, Any], folder: str,
                   stem: str) -> list[str]:
    """Write a backbone as ``.pth`` and ``.safetensors``.

    Args:
        tensors (Tensors): By the toolbox's names.
        made (dict): How they were made; plain values.
        folder (str): Where to write; it is made.
        stem (str): Name of the files up to the hash.

    Returns:
        list[str]: Paths of the two files, each with the beginning of its own
        SHA-256 in its name.

    Raises:
        UserError: If they are no whole ResNet, or not finite.
    """
    arch = find_arch(tensors)
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    state = dict(tensors)
    if arch is not None:
        build_resnet(tensors, arch, made['source'])
        state.update((f'{arch}.{k}', v) for k, v in tensors.items())
    made = dict(made, arch=arch)
    return [
        write_hashed(folder, stem, '.pth', lambda path: torch.save(
            dict(state_dict=state, meta=made), path)),
        write_hashed(folder, stem, '.safetensors',
                     lambda path: _save_safetensors(tensors, made, path))
    ]


def write_hashed(folder: str, stem: str, suffix: str,
                 write: Callable[[str], Any]) -> str:
    """Write a file and put the beginning of its SHA-256 into its name.

    Args:
        folder (str): Where to write; it is made. '' is the current folder.
        stem (str): Name of the file up to the hash.
        suffix (str): Ending of the name.
        write (Callable): Writes to the path that it is given.

    Returns:
        str: The path.
    """
    os.makedirs(folder or '.', exist_ok=True)
    partial = osp.join(folder, f'.{stem}.partial')
    write(partial)
    final = osp.join(folder, f'{stem}-{sha256(partial)[:8]}{suffix}')
    os.replace(partial, final)
    return final


def stem_of(path: str) -> str:
    """Name of a file without the hash and the ending."""
    stem = osp.splitext(osp.basename(path))[0]
    return re.sub(r'-[0-9a-f]{8}$', '', stem)


def _save_safetensors(tensors: Tensors, made: dict[str, Any],
                      path: str) -> None:
    from safetensors.torch import save_file
    # one entry: the library writes several in an order of chance
    save_file(tensors, path, {'made': json.dumps(made)})
