"""Weights that a network starts from, from any common file.

The same network is saved under many names: as part of a training checkpoint
(``backbone.``, ``module.encoder_q.``, ``student.backbone.``), in a wrapper
(``timm_model.model.``), or with the names of another library.
:func:`fit_names` matches them with our names, or refuses the file.
"""
import hashlib
import os.path as osp
import re

import torch
from mmengine.logging import print_log
from torch import nn

from .errors import MissingFileError, UserError
from .files import check_name_hash
from .safe_load import Tensors, load_weights, one_line, tensors_of

_SLOW = re.compile(r'encoder_k|key_encoder|momentum|target|(^|[._])ema([._]|$)'
                   r'|student')
"""Of two networks in a file the one that nobody transfers: the moving average
of MoCo, BYOL and CYBORGS, but the student of DINO."""
_UNUSED = ('num_batches_tracked', )
# Signs of another library's file, and its converter.
_CONVERTERS = (
    (r'^features\.\d', 'MobileNetV2, VGG, EfficientNet', (
        'mobilenetv2_to_mmpretrain', 'torchvision_to_mmpretrain')),
    (r'^stages\.\d+\.blocks|^downsample_layers', 'ConvNeXt', (
        'convnext_to_mmpretrain', )),
    (r'^(blocks|transformer|encoder\.layers?)\.\d', 'a transformer', (
        'deit3_to_mmpretrain', 'eva02_to_mmpretrain',
        'openai-clip_to_mmpretrain-clip')),
    (r'^trunk_output|^block\d+\.', 'RegNet', ('torchvision_to_mmpretrain', )),
)


def read_start(path: str) -> Tensors:
    """Read the tensors of a file without running code in it.

    Args:
        path (str): A file of ``torch.save`` or a ``.safetensors`` file.

    Returns:
        Tensors: By their names in the file. If a checkpoint has several
        networks, names begin with that of the network.

    Raises:
        UserError: If the file is missing or damaged, or has no tensors.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise MissingFileError(f'{path}: no such file')
    if path.endswith('.safetensors'):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        check_name_hash(path)
        try:
            return load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise UserError(f'{path} is damaged ({one_line(error)}): copy it '
                            'again') from error
    content = load_weights(path, log=True)
    found = tensors_of(content, path)
    if not found:
        for name, part in content.items():
            if isinstance(part, dict):
                found.update((f'{name}.{key}', value) for key, value
                             in tensors_of(dict(state_dict=part),
                                           path).items())
    if not found:
        raise UserError(f'{path} has no tensors but '
                        f'{sorted(map(str, content))[:8]}')
    return found


def fit_names(found: Tensors,
              wanted: Tensors,
              path: str,
              prefix: str | None = None) -> tuple[Tensors, str]:
    """Give the tensors of a file the names of a network.

    Args:
        found (Tensors): Tensors of the file.
        wanted (Tensors): The network's state.
        path (str): The file, for messages.
        prefix (str, optional): What the names of the network begin with in the
            file. Defaults to None, detected.

    Returns:
        tuple[Tensors, str]: All tensors of the network, and a description of
        how they were found. Batch norms' counts of batches may be missing.

    Raises:
        UserError: If the file lacks some of them, or has those of several
            networks. The message names the converter if mmpretrain has one.
    """
    counted = {k: v for k, v in wanted.items() if not k.endswith(_UNUSED)}
    if prefix is not None:
        start = f'{prefix.rstrip(".")}.' if prefix else ''
        chosen = _under(found, start)
        if _fits(chosen, counted):
            return _only(chosen, wanted), f'under {start!r}'
        raise UserError(_refusal(chosen, counted, path, found))
    # No file has the name of a wrapper before all of our names.
    for own in _wrappers(counted):
        inner = {key[len(own):]: value for key, value in counted.items()}
        fitting = [start for start in _starts(found, inner)
                   if _fits(_under(found, start), inner)]
        if not fitting:
            continue
        start = _choose(found, fitting, inner, path)
        if not own:  # timm cuts off the blocks that give no output
            _refuse_deeper(_under(found, start), inner, path)
        chosen = {own + key: value
                  for key, value in _under(found, start).items()}
        return _only(chosen, wanted), (f'under {start!r}' if start else
                                       'by their names')
    ordered = _in_order(found, counted)
    if ordered is not None:
        return ordered, 'in their order, since the names are others'
    raise UserError(_refusal(found, counted, path, found))


def content_hash(tensors: Tensors) -> str:
    """SHA-256 of tensors and their names, whatever the file.

    Batch norms' counts of batches are left out, because not every file has
    them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if not name.endswith(_UNUSED):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(
                torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_start(network: nn.Module,
               path: str,
               prefix: str | None = None) -> None:
    """Load a file into a network completely.

    Args:
        network (nn.Module): Changed in place.
        path (str): See :func:`read_start`.
        prefix (str, optional): See :func:`fit_names`. Defaults to None.

    Raises:
        UserError: See these functions.
    """
    state, how = fit_names(
        read_start(path), network.state_dict(), path, prefix)
    network.load_state_dict(state, strict=False)
    print_log(f'{type(network).__name__}: {len(state)} tensors were found in '
              f'{path} {how}', logger='current')


def converter_of(found: Tensors) -> str:
    """Name the converter for a file of another library.

    Args:
        found (Tensors): Tensors of the file.

    Returns:
        str: A sentence for messages.
    """
    names = [re.sub(r'^(module|model|backbone)\.', '', key) for key in found]
    for pattern, kind, tools in _CONVERTERS:
        if any(re.search(pattern, name) for name in names):
            return (f"It looks like another library's {kind}: convert it by "
                    'mmpretrain/.mim/tools/model_converters/'
                    f'{" or ".join(f"{tool}.py" for tool in tools)}, or take '
                    "backbone=dict(type='TIMMBackbone', model_name=...) if "
                    'it is one of timm')
    return ('mmpretrain/.mim/tools/model_converters has converters for other '
            'libraries')


def _under(found: Tensors, start: str) -> Tensors:
    return {key[len(start):]: value for key, value in found.items()
            if key.startswith(start)}


def _fits(found: Tensors, wanted: Tensors) -> bool:
    return all(key in found and found[key].shape == value.shape
               for key, value in wanted.items())


def _only(found: Tensors, wanted: Tensors) -> Tensors:
    return {key: found[key] for key in wanted if key in found}


def _wrappers(wanted: Tensors) -> list[str]:
    """'' and what all names begin with, shorter ones first."""
    common = osp.commonprefix(list(wanted)).split('.')[:-1]
    return ['.'.join(common[:end]) + '.' * (end > 0)
            for end in range(len(common) + 1)]


def _starts(found: Tensors, wanted: Tensors) -> list[str]:
    """What a name of the network begins with in the file."""
    name = next(iter(wanted))
    return [key[:-len(name)] for key in found
            if key == name or key.endswith(f'.{name}')]


def _choose(found: Tensors, starts: list[str], wanted: Tensors,
            path: str) -> str:
    """One of several networks in a file."""
    for pick in ([start for start in starts if not start], [
            start for start in starts if not _SLOW.search(start)
    ], starts):
        if len(pick) == 1:
            return pick[0]
        if pick and all(
                found[start + key].equal(found[pick[0] + key])
                for start in pick for key in wanted):
            return pick[0]  # one network under several names
        if pick:
            break
    raise UserError(
        f'{path} has several networks of this kind, under {starts}: name one '
        'as prefix')


def _refuse_deeper(found: Tensors, wanted: Tensors, path: str) -> None:
    """Refuse a network that has all of ours and more blocks in a stage."""

    def kind(key: str) -> tuple[str, str]:
        stage, _, rest = key.partition('.')
        return stage, re.sub(r'\d+', '#', rest)

    known = {kind(key) for key in wanted}
    more = [key for key in found if key not in wanted and kind(key) in known]
    if more:
        raise UserError(
            f'{path} is of a deeper network: it has {more[0]} and '
            f'{len(more) - 1} other tensors of blocks that this one has not. '
            "Take its file, or set the backbone's depth to the file's")


def _in_order(found: Tensors, wanted: Tensors) -> Tensors | None:
    """Pair tensors one by one, if all types and shapes agree.

    The file may have more, such as a classifier.
    """
    rest = [(key, value) for key, value in found.items()
            if not key.endswith(_UNUSED)]
    if len(rest) < len(wanted):
        return None
    pairs = list(zip(wanted.items(), rest))
    if any(mine.shape != other.shape
           or name.rpartition('.')[2] != key.rpartition('.')[2]
           for (name, mine), (key, other) in pairs):
        return None
    return {name: other for (name, _), (_, other) in pairs}


def _refusal(chosen: Tensors, wanted: Tensors, path: str,
             found: Tensors) -> str:
    lacking = [key for key in wanted if key not in chosen]
    wrong = [f'{key} {tuple(chosen[key].shape)} instead of '
             f'{tuple(value.shape)}' for key, value in wanted.items()
             if key in chosen and chosen[key].shape != value.shape]
    shapes = f' ({", ".join(wrong[:2])})' if wrong else ''
    return (f'{path} does not fit: it lacks {len(lacking)} of the '
            f'{len(wanted)} tensors, such as {lacking[:2]}, and '
            f'{len(wrong)} have other shapes{shapes}; it has '
            f'{list(found)[:3]} and so on. {converter_of(found)}')
