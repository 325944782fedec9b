"""Files that hold a backbone: reading safely, naming, checking, writing.

A published file holds ``state_dict`` with every tensor under two names, which
share its storage: the toolbox's own (``conv1.weight``), and the same after the
architecture (``resnet50.conv1.weight``). With ``init_cfg=dict(
type='Pretrained', checkpoint=FILE, prefix='resnet50.')`` mmengine itself
refuses any file that does not hold a complete ResNet-50; without a prefix the
plain names are loaded. For other networks the second name begins with
``backbone.``, as in a detector's checkpoint, since some of mmdet's read only
such names. A network of another library (``TimmNetwork``, ``ModuleBackbone``)
has the names of that library in place of the toolbox's, without ``network.``.
``meta`` says how the file was made.
"""
import json
import os
import os.path as osp
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmpretrain.models import ResNet

from ..errors import MissingFileError, UserError
from ..files import check_name_hash, publish, sha256
from ..safe_load import Tensors, load_weights, one_line, tensors_of

# (bottleneck, blocks of each stage) -> depth
DEPTHS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152
}
_PARTS = re.compile(
    r'(conv1|bn1|layer\d\.\d+\.((conv|bn)\d|downsample\.[01]))\.')
OTHERS = 'backbone.'
"""Beginning of the second names of networks other than ResNets."""
FOREIGN = 'network.'
"""What names in a ``ForeignNetwork`` begin with, before those of its own."""


def read_backbone(path: str) -> tuple[Tensors, dict[str, Any], str]:
    """Read a published backbone.

    Args:
        path (str): A ``.pth`` or ``.safetensors`` file that
            ``publish_backbone.py`` or ``from_published.py`` wrote.

    Returns:
        tuple[Tensors, dict, str]: Tensors by the toolbox's names, how they
        were made, and the architecture.

    Raises:
        UserError: If the file is damaged or is not a published ResNet.
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
        except (SafetensorError, ValueError, RecursionError) as error:
            raise UserError(f'{path} is damaged ({one_line(error)}): copy it '
                            'again') from error
        if not isinstance(meta, dict):
            raise UserError(f'{path}: its record of how it was made is no '
                            f'dict but of type {type(meta).__name__}')
    else:
        content = load_weights(path)
        meta = content.get('meta', {})
        if 'state_dict' not in content:
            raise UserError(f'{path} holds no state_dict but '
                            f'{sorted(map(str, content))[:8]}: publish it '
                            'with publish_backbone.py or from_published.py')
        state = tensors_of(content, path)
    arch = find_arch(state)
    if arch is None and 'source_sha256' in meta:
        raise UserError(
            f'{path} holds the backbone {meta.get("backbone")}, but only '
            'ResNets have names in other libraries that are known here. In '
            "the toolbox it is loaded by init_cfg=dict(type='Pretrained', "
            f'checkpoint={path!r}, prefix={OTHERS!r})')
    if arch is None:
        raise UserError(
            f'{path} holds no ResNet under the plain names (conv1.weight, '
            f'layer1.0.conv1.weight, ...); it has {sorted(state)[:4]}: '
            'publish it with publish_backbone.py or from_published.py first')
    prefix = f'{arch}.'
    tensors = {k: v for k, v in state.items() if not k.startswith(prefix)}
    return tensors, meta, arch


def find_arch(tensors: Tensors) -> str | None:
    """Recognise a ResNet by its tensors.

    Args:
        tensors (Tensors): By the toolbox's names.

    Returns:
        Optional[str]: ``resnet18`` to ``resnet152``, or None for another
        network. ResNeXt, SEResNet and narrow ones have the same names of
        blocks, but other widths or more parts.
    """
    narrow = tensors.get('layer1.0.conv2.weight')
    if narrow is None or tuple(narrow.shape) != (64, 64, 3, 3) or any(
            key.startswith('layer') and not _PARTS.match(key)
            for key in tensors):
        return None
    blocks = []
    for stage in range(1, 5):
        found = [
            int(match[1]) for match in (re.match(
                rf'layer{stage}\.(\d{{1,3}})\.conv1\.weight$', key)
                                        for key in tensors) if match
        ]
        blocks.append(max(found, default=-1) + 1)
    depth = DEPTHS.get(('layer1.0.conv3.weight' in tensors, tuple(blocks)))
    return f'resnet{depth}' if depth and 'conv1.weight' in tensors else None


def prefix_of(tensors: Tensors) -> str:
    """The beginning of the second names in a published file.

    Args:
        tensors (Tensors): By the toolbox's names.

    Returns:
        str: For example ``resnet50.``; ``backbone.`` for another network.
    """
    arch = find_arch(tensors)
    return f'{arch}.' if arch else OTHERS


def own_names(tensors: Tensors) -> Tensors:
    """Give the tensors of another library's network that library's names.

    Args:
        tensors (Tensors): By the toolbox's names.

    Returns:
        Tensors: Those of any other backbone as they are.
    """
    if not is_foreign(tensors):
        return tensors
    return {key[len(FOREIGN):]: value for key, value in tensors.items()}


def is_foreign(tensors: Tensors) -> bool:
    """Whether these are the tensors of a ``ForeignNetwork``."""
    return all(key.startswith(FOREIGN) for key in tensors)


def build_resnet(tensors: Tensors, arch: str, source: str) -> ResNet:
    """Build the toolbox's ResNet with exactly these tensors.

    Args:
        tensors (Tensors): By the toolbox's names.
        arch (str): ``resnet18`` to ``resnet152``.
        source (str): The file, for messages.

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
        raise UserError(f'{source} is no whole {arch}: '
                        f'{one_line(error)}') from error
    _expect_finite(tensors, source)
    network.eval()  # mmpretrain's gives nothing back
    return network


def _expect_finite(tensors: Tensors, source: str) -> None:
    bad = [k for k, v in tensors.items() if not v.float().isfinite().all()]
    if bad:
        raise UserError(f'{source}: {len(bad)} tensors hold NaN or infinite '
                        f'values, such as {bad[0]}: the training has '
                        'diverged; take an earlier checkpoint')


def load_frozen(source: str, out_indices: Sequence[int],
                seed: int = 0) -> ResNet:
    """Load a published backbone to compute features with.

    Args:
        source (str): A published file, or the name of an architecture, such
            as ``resnet50``, for random weights.
        out_indices (Sequence[int]): Stages whose outputs it returns, from 0.
        seed (int): Determines the random weights. Defaults to 0.

    Returns:
        ResNet: In evaluation mode.

    Raises:
        UserError: If the file is damaged or is not a published ResNet.
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
        other (Callable): Returns the other network's map of stage 4.
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
        folder (str): Folder to write to; it is created.
        stem (str): Name of the files up to the hash.

    Returns:
        list[str]: Paths of the two files, each with the beginning of its own
        SHA-256 in its name.

    Raises:
        UserError: If they are an incomplete ResNet, or not finite.
    """
    arch = find_arch(tensors)
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    own = own_names(tensors)
    state = dict(own)
    _expect_finite(tensors, made['source'])
    if arch is not None:
        build_resnet(tensors, arch, made['source'])
    prefix = prefix_of(tensors)
    state.update((f'{prefix}{k}', v) for k, v in tensors.items())
    made = dict(made, arch=arch)
    return [
        write_hashed(folder, stem, '.pth', lambda path: torch.save(
            dict(state_dict=state, meta=made), path)),
        write_hashed(folder, stem, '.safetensors',
                     lambda path: _save_safetensors(own, made, path))
    ]


def write_hashed(folder: str, stem: str, suffix: str,
                 write: Callable[[str], Any]) -> str:
    """Write a file and put the beginning of its SHA-256 into its name.

    Args:
        folder (str): Folder to write to; it is created. '' is the current
            folder.
        stem (str): Name of the file up to the hash.
        suffix (str): Ending of the name.
        write (Callable): Writes to the path that it gets.

    Returns:
        str: The path.
    """
    os.makedirs(folder or '.', exist_ok=True)
    partial = osp.join(folder, f'.{stem}.partial')
    with open(partial, 'wb') as file:
        mode = os.fstat(file.fileno()).st_mode
    write(partial)
    os.chmod(partial, mode)  # safetensors lets nobody else read its files
    final = osp.join(folder, f'{stem}-{sha256(partial)[:8]}{suffix}')
    publish(partial, final)
    return final


def stem_of(path: str) -> str:
    """Name of a file without the hash and the ending."""
    stem = osp.splitext(osp.basename(path))[0]
    return re.sub(r'-[0-9a-f]{8}$', '', stem)


def _save_safetensors(tensors: Tensors, made: dict[str, Any],
                      path: str) -> None:
    from safetensors.torch import save_file
    # one entry: the library writes several in random order
    save_file(tensors, path, {'made': json.dumps(made)})
