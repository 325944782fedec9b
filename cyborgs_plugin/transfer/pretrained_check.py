"""Checks of weights that a run starts from: none may fail silently.

If a file does not fit, mmengine only logs it, and training starts from random
weights.
"""
import os
import os.path as osp
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.model import BaseAveragedModel, PretrainedInit
from mmengine.runner import CheckpointLoader
from torch import nn

from ..commands import command
from ..errors import MissingFileError, UserError
from ..files import written_aside
from ..safe_load import (
    Tensors,
    is_address,
    load_weights,
    loading_safely,
    tensors_of,
)
from ..start_file import content_hash, converter_of, fit_names, read_start

_OUTPUT_NORM = re.compile(r'norm\d+\.')
"""In ConvNeXt and Swin: after each stage that gives an output."""


def adapt_files(model: nn.Module, folder: str) -> dict[str, str]:
    """Convert pretrained files of other sources to the names of their modules.

    mmengine loads only by name. A file that fits by a rule of
    :func:`start_file.fit_names` is written again, and ``init_cfg`` names the
    copy; :func:`check_files` refuses files that fit no rule.

    Args:
        model (nn.Module): A model of the toolbox; its ``init_cfg`` change.
        folder (str): Folder for copies, on a disk that all ranks share.

    Returns:
        dict[str, str]: The original file of each copy.
    """
    copies = {}
    for name, module, init in pretrained_modules(model):
        path = osp.expanduser(init['checkpoint'])
        if (is_address(path) or init.get('prefix') or not osp.isfile(path)
                or _loads_its_own_way(module)):
            continue
        wanted = _tensors(module)
        try:
            found = read_start(path)
            lacking, wrong = _misfits(found, wanted)
            added = _added(lacking, found, wanted)
            if not wrong and len(added) == len(lacking) < len(wanted) and (
                    not path.endswith('.safetensors')):
                continue
            state, how = fit_names(found, wanted, path)
        except UserError:
            continue
        copy = osp.join(folder, f'start_{content_hash(state)[:8]}_named.pth')
        if is_main_process():
            meta = {} if path.endswith('.safetensors') else load_weights(
                path, log=True).get('meta', {})
            os.makedirs(folder, exist_ok=True)
            with written_aside(copy) as aside:
                torch.save(dict(state_dict=state, meta=meta), aside)
        barrier()
        print_log(
            f'model.{name}: {len(state)} tensors were found in {path} {how}; '
            f'{copy} has them by the names of {type(module).__name__}',
            logger='current')
        init['checkpoint'] = copy
        copies[copy] = path
    return copies


def check_files(model: nn.Module) -> list[str]:
    """Check that every pretrained file holds what its module needs.

    Args:
        model (nn.Module): A model of the toolbox, initialised or not.

    Returns:
        list[str]: A line for each file.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one is damaged, asks to run code, lacks tensors or has
            other shapes. The message names them.
    """
    lines = []
    for name, module, init in pretrained_modules(model):
        wanted = _tensors(module)
        found = read_pretrained(init['checkpoint'], init.get('prefix'))
        lacking, wrong = _misfits(found, wanted)
        added = _added(lacking, found, wanted)
        if (lacking or wrong) and _loads_its_own_way(module):
            lines.append(f'model.{name} renames or resizes what it loads: '
                         f'{init["checkpoint"]} is not compared with it')
            continue
        if wrong or len(added) < len(lacking) or len(added) == len(wanted):
            fix = ('These are norms of outputs that it was not pretrained '
                   'with: pretrain with all of out_indices and '
                   'model.neck.in_indices'
                   if not wrong and all(_OUTPUT_NORM.match(key)
                                        for key in lacking) else
                   _other_stem(module, lacking, found) or
                   "Set init_cfg.prefix and the backbone's depth to the "
                   f"file's, or take another file. {converter_of(found)}")
            raise UserError(
                f'{init["checkpoint"]} does not fit model.{name} (init_cfg '
                f'prefix={init.get("prefix")!r}): of {len(wanted)} tensors '
                f'{len(lacking)} are missing ({some(lacking)}) and '
                f'{len(wrong)} have other shapes ({some(wrong)}). The file '
                f'has {some(sorted(found), 4)}. {fix}')
        lines.append(
            f'model.{name}: {len(wanted) - len(added)} of {len(wanted)} '
            f'tensors are in {init["checkpoint"]}' +
            (f'; those of parts that its network has not ({some(added, 4)}) '
             'keep their initial values' if added else ''))
    return lines


def check_loaded(model: nn.Module) -> list[str]:
    """Check that every pretrained module holds its file's tensors.

    Args:
        model (nn.Module): The model after ``init_weights``.

    Returns:
        list[str]: A line for each file.

    Raises:
        ValueError: If tensors differ from the file's. The message names them.
    """
    check_files(model)
    lines = []
    for name, module, init in pretrained_modules(model):
        found = read_pretrained(init['checkpoint'], init.get('prefix'))
        if any(_misfits(found, _tensors(module))) and (
                _loads_its_own_way(module)):
            continue
        wanted = {k: v for k, v in _tensors(module).items() if k in found}
        other = [
            key for key, value in wanted.items()
            if not torch.equal(value.cpu(), found[key].to(value.dtype))
        ]
        if other:
            raise UserError(
                f'model.{name}: {len(other)} of {len(wanted)} tensors are '
                f'not those of {init["checkpoint"]} after loading: '
                f'{some(other)}. Something initialises them after init_cfg, '
                'or init_weights has not run')
        lines.append(f'model.{name}: {len(wanted)} of {len(wanted)} tensors '
                     f'were loaded from {init["checkpoint"]}')
    return lines


def check_checkpoint(model: nn.Module, checkpoint: dict,
                     source: str) -> str | None:
    """Check that a checkpoint holds tensors of the model.

    Args:
        model (nn.Module): A model of the toolbox.
        checkpoint (dict): As read from a file, with a ``state_dict`` or
            without.
        source (str): The file, for messages.

    Returns:
        Optional[str]: What will not be loaded, or None if all will.

    Raises:
        ValueError: If nothing will. The message says how to start from a
            backbone.
    """
    found = {
        _without(key, 'module.'): value
        for key, value in tensors_of(checkpoint, source).items()
    }
    wanted = _tensors(model)
    lacking, wrong = _misfits(found, wanted)
    if not lacking and not wrong:
        return None
    parts = (f'{len(lacking)} are missing ({some(lacking, 4)}), {len(wrong)} '
             f'have other shapes ({some(wrong, 4)})')
    loaded = len(wanted) - len(lacking) - len(wrong)
    if loaded:
        return (f'{source}: only {loaded} of {len(wanted)} tensors of the '
                f'model are loaded; {parts}. These keep the values that the '
                'model was initialised with')
    meta = checkpoint.get('meta')
    arch = meta.get('arch') if isinstance(meta, dict) else None
    prefix = repr(f'{arch}.') if arch else '...'
    raise UserError(
        f'{source} fits none of the {len(wanted)} tensors of the model, so '
        f'nothing of it would be loaded: {parts}. The file has '
        f'{some(sorted(found), 4)}. load_from, --resume and the evaluation '
        'take a checkpoint of this very model. To start a training from a '
        "backbone, set model.backbone.init_cfg=dict(type='Pretrained', "
        f'checkpoint={source!r}, prefix={prefix}) instead')


def check_resumable(checkpoint: dict, source: str) -> None:
    """Check that a checkpoint has what mmengine resumes, of the right types.

    Args:
        checkpoint (dict): As read from a file.
        source (str): The file, for messages.

    Raises:
        UserError: If something is wrong; the message names the key.
    """
    if not ({'epoch', 'iter'} <= set(checkpoint.get('meta') or ())
            and 'message_hub' in checkpoint):
        raise UserError(
            f'{source} does not say how far its training was, so that none '
            'can be resumed: name it by load_from instead of --resume to '
            'begin with its weights')
    meta, hub = checkpoint['meta'], checkpoint['message_hub']
    seed = meta.get('seed')
    wrong = [
        f'meta.{key}={str(meta[key])[:20]!r}' for key in ('epoch', 'iter')
        if not isinstance(meta[key], int) or meta[key] < 0
    ]
    if seed is not None and not (isinstance(seed, int)
                                 and 0 <= seed < 2**32):
        wrong.append(f'meta.seed={str(seed)[:20]!r}')
    if isinstance(hub, dict):  # an old mmengine wrote an object of its own
        wrong += [
            f'message_hub.{key}'
            for key in ('log_scalars', 'runtime_info', 'resumed_keys')
            if not isinstance(hub.get(key), dict)
        ]
    wrong += _wrong_optimizer(checkpoint.get('optimizer', {}))
    schedules = checkpoint.get('param_schedulers', [])
    several = list(schedules.values()) if isinstance(
        schedules, dict) else [schedules]
    if not all(isinstance(one, list) and _all_dicts(one) for one in several):
        wrong.append('param_schedulers')
    if wrong:
        raise UserError(
            f'{source} was altered: {", ".join(wrong)} is not what mmengine '
            'writes, so that it cannot be resumed: take another checkpoint '
            'of the run')


def _wrong_optimizer(state: Any) -> list[str]:
    """The key of an optimizer's state that differs from torch's."""
    if not isinstance(state, dict):
        return ['optimizer']
    if not {'state', 'param_groups'} & set(state):  # none, or several
        return ['optimizer'] if any(
            _wrong_optimizer(one) for one in state.values()
            if isinstance(one, dict)) else []
    moments, groups = state.get('state'), state.get('param_groups')
    if not isinstance(moments, dict) or not _all_dicts(moments.values()):
        return ['optimizer.state']
    if not isinstance(groups, list) or not _all_dicts(groups) or not all(
            isinstance(group.get('params'), list) for group in groups):
        return ['optimizer.param_groups']
    return []


def _all_dicts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def pretrained_modules(
        model: nn.Module) -> Iterator[tuple[str, nn.Module, dict]]:
    """Find name, module and ``init_cfg`` of all pretrained modules.

    Moving averages are copies that never load a file, although they have a
    copy of the ``init_cfg``.

    Args:
        model (nn.Module): A model of the toolbox.

    Yields:
        tuple[str, nn.Module, dict]: One for each file to load.
    """
    averages = _averages(model)
    for name, module in model.named_modules():
        if name.startswith(averages):
            continue
        init_cfg = getattr(module, 'init_cfg', None)
        if isinstance(init_cfg, dict):
            init_cfg = [init_cfg]
        for init in init_cfg or ():
            if init.get('type') in ('Pretrained', PretrainedInit):
                yield name, module, init


def read_pretrained(checkpoint: str, prefix: str | None = None) -> Tensors:
    """Read the tensors that mmengine would load, without running code.

    Args:
        checkpoint (str): Path, or an address that mmengine knows, such as
            ``torchvision://resnet50``.
        prefix (str, optional): What the keys begin with. Defaults to None.

    Returns:
        Tensors: By their keys without the prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, asks to run code or has no such keys.
    """
    tensors = tensors_of(read_file(checkpoint), checkpoint)
    if prefix is None:
        return {_without(key, 'module.'): v for key, v in tensors.items()}
    prefix = prefix.rstrip('.') + '.'
    chosen = {
        key[len(prefix):]: value
        for key, value in tensors.items() if key.startswith(prefix)
    }
    if not chosen:
        groups = sorted({key.split('.')[0] for key in tensors})
        raise UserError(
            f'{checkpoint} has no keys that begin with {prefix!r}, but such '
            f'as begin with {some(groups)}: set init_cfg.prefix to what the '
            'file has, or publish the checkpoint by '
            + command('model_converters/publish_backbone', checkpoint))
    return chosen


def read_file(checkpoint: str) -> dict:
    """Read a file or a known address, without running code."""
    if is_address(checkpoint):
        with loading_safely():
            return CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    if not osp.isfile(osp.expanduser(checkpoint)):
        publish = command('model_converters/publish_backbone', 'CHECKPOINT')
        key = 'model.backbone.init_cfg.checkpoint'
        if os.environ.get('START') == checkpoint:
            raise MissingFileError(
                f'{checkpoint!r}, which the variable START names, does not '
                f'exist: the current folder is {os.getcwd()}. Name the file '
                'of the weights that the training starts from')
        if os.environ.get('BACKBONE') == checkpoint:
            raise MissingFileError(
                f'{checkpoint!r}, which the variable BACKBONE names, does not '
                f'exist: the current folder is {os.getcwd()}. Name the file '
                f'that `{publish}` writes')
        raise MissingFileError(
            f'{checkpoint} does not exist: make it by `{publish}` and name it '
            f'with --cfg-options {key}=FILE'
            + ('' if 'BACKBONE' in os.environ else
               ' or, to the configs of configs/transfer, by BACKBONE=FILE'))
    return load_weights(checkpoint)


def _averages(module: nn.Module) -> tuple[str, ...]:
    """The beginnings of the names of all moving averages."""
    return tuple(f'{name}.' for name, child in module.named_modules()
                 if name and isinstance(child, BaseAveragedModel))


def _tensors(module: nn.Module) -> Tensors:
    """The tensors of a file, without counts and moving averages."""
    averages = _averages(module)
    return {
        key: value
        for key, value in module.state_dict().items()
        if not key.endswith('num_batches_tracked')
        and not key.startswith(averages)
    }


def _misfits(found: Tensors, wanted: Tensors) -> tuple[list[str], list[str]]:
    """The names that are missing, and those with other shapes."""
    lacking = [key for key in wanted if key not in found]
    wrong = [
        f'{key} {tuple(found[key].shape)} instead of '
        f'{tuple(wanted[key].shape)}' for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    return lacking, wrong


def _added(lacking: list[str], found: Tensors,
           wanted: Tensors) -> list[str]:
    """The missing tensors in parts that the file's network does not have.

    A detector may add some, such as the offsets of deformable convolutions.
    One more block of the file's own type does not count: the depth differs.
    Nor does what the network begins with: the stem differs.
    """

    def kind(key: str) -> str:
        return re.sub(r'\d+', '#', key)

    known = {kind(key) for key in found}
    first = next(iter(wanted), None)
    return [key for key in lacking
            if kind(key) not in known and key != first]


def _other_stem(module: nn.Module, lacking: list[str],
                found: Tensors) -> str | None:
    """Say which ResNet has the file's stem, if that is what differs."""
    deep = any(key.startswith('stem.') for key in lacking)
    plain = 'conv1.weight' in lacking
    if deep and 'conv1.weight' in found:
        return (f'{type(module).__name__} begins with several convolutions, '
                "the file's network with one: set its type to 'ResNet'")
    if plain and any(key.startswith('stem.') for key in found):
        return (f'{type(module).__name__} begins with one convolution, the '
                "file's network with several: set its type to 'ResNetV1c' or "
                "'ResNetV1d'")
    return None


def _loads_its_own_way(module: nn.Module) -> bool:
    """Whether a network renames or resizes tensors when it loads them."""
    return hasattr(module, 'convert_weights') or any(
        part._load_state_dict_pre_hooks for part in module.modules())


def _without(key: str, prefix: str) -> str:
    return key[len(prefix):] if key.startswith(prefix) else key


def some(names: Sequence[Any], count: int = 8) -> str:
    """Name the first of a list in a message."""
    shown = ', '.join(str(name) for name in names[:count]) or 'none'
    return f'{shown}, ...' if len(names) > count else shown
