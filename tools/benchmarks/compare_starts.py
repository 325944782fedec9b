"""The weights that compare.py starts from, found and checked."""
import glob
import os.path as osp
import re
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from torch import nn

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.engine.work_dir_hook import latest_checkpoint
from cyborgs_plugin.errors import MissingFileError, UserError
from cyborgs_plugin.safe_load import is_address, load_weights, tensors_of
from cyborgs_plugin.start_file import fit_names, read_start
from cyborgs_plugin.timm_cache import PREFIX, find_cached
from cyborgs_plugin.transfer.backbone_file import find_arch
from cyborgs_plugin.transfer.pretrained_check import (
    adapt_files,
    check_checkpoint,
    check_files,
)
from cyborgs_plugin.transfer.recipe_check import recipe_of

RANDOM = 'random'
_HEADS = ('rpn_head.', 'roi_head.', 'bbox_head.', 'decode_head.')


class Start(NamedTuple):
    """Weights, by the name that they have in the comparison."""

    name: str
    source: str | None
    """What was given; None: random weights."""
    checkpoint: str | None
    """The file."""
    whole: bool
    """Whether it is a whole detector, loaded as such (``load_from``)."""
    config: str | None
    """That of a run."""


def find_start(text: str) -> Start:
    """Find the weights of ``random``, NAME=FILE or NAME=RUN.

    Raises:
        UserError: If there are none.
    """
    name, equals, source = text.partition('=')
    if text == RANDOM:
        return Start(RANDOM, None, None, False, None)
    if not (name and equals and source):
        raise UserError(
            f'--starts {text!r}: expected random, or NAME=FILE, or NAME=RUN, '
            'the work_dir of a training')
    if not re.fullmatch(r'\w[\w.-]*', name):
        raise UserError(f'--starts {text!r}: the name {name!r} is that of a '
                        'folder, too: letters, digits, ".", "_" and "-"')
    if source.startswith(PREFIX):
        return Start(name, source, find_cached(source), False, None)
    if is_address(source):
        raise UserError(f'--starts {text}: nothing is downloaded; give the '
                        'path of the file')
    source = osp.expanduser(source)
    if osp.isdir(source):
        return _of_run(name, source)
    if not osp.isfile(source):
        raise MissingFileError(f'--starts {text}: there is no file or folder '
                               f'{source}')
    path = osp.abspath(source)
    return Start(name, source, path, _is_whole(path), None)


def _of_run(name: str, folder: str) -> Start:
    configs = glob.glob(osp.join(glob.escape(folder), '*.py'))
    checkpoint = latest_checkpoint(folder)
    if not configs or checkpoint is None:
        raise MissingFileError(
            f'--starts {name}={folder}: a run was expected, but the folder '
            f'holds no {"config (*.py)" if not configs else "checkpoint"}; '
            'name the file of the weights itself')
    path = osp.abspath(checkpoint)
    return Start(name, folder, path, _is_whole(path),
                 max(configs, key=osp.getmtime))


def _is_whole(path: str) -> bool:
    return any(key.startswith(_HEADS) for key in read_start(path))


def find_backbone(starts: list[Start], config: str | None) -> Config:
    """The config of the network that all starts are weights of.

    Args:
        starts (list[Start]): All of them.
        config (str, optional): Path of a config that has it.

    Returns:
        Config: That one; else that of the first run; else a ResNet of the
        depth of a file.

    Raises:
        UserError: If it cannot be told.
    """
    for path in (config, *(start.config for start in starts)):
        if path is not None:
            return load_config(path)
    for start in starts:
        if start.checkpoint:
            arch = find_arch(_plain(start.checkpoint))
            if arch is not None:
                return Config(dict(
                    default_scope='mmpretrain',
                    model=dict(backbone=dict(
                        type='ResNet', depth=int(arch[len('resnet'):]),
                        out_indices=(1, 2, 3)))))
    raise UserError(
        'Of which network the starts are weights cannot be told by their '
        'files: give --config, a config whose model.backbone it is')


def _plain(path: str) -> dict:
    """The tensors of a file without what all their names begin with."""
    tensors = read_start(path)
    found = [key[:-len('conv1.weight')] for key in tensors
             if key == 'conv1.weight' or key.endswith('.conv1.weight')
             and '.layer' not in f'.{key}']
    if not found:
        return {}
    start = min(found, key=len)
    return {key[len(start):]: value for key, value in tensors.items()
            if key.startswith(start)}


def init_of(start: Start, model: nn.Module, module: nn.Module,
            folder: str) -> ConfigDict | None:
    """What loads a start into a network, as a run checks it.

    Args:
        start (Start): The weights.
        model (nn.Module): What holds the network; its ``init_cfg`` change.
        module (nn.Module): The network.
        folder (str): For a copy by the toolbox's names, if need be.

    Returns:
        Optional[ConfigDict]: The ``init_cfg``; None for random weights.

    Raises:
        UserError: If they do not fit; the message names the tensors.
    """
    if start.checkpoint is None:
        return None
    for part in model.modules():
        if getattr(part, 'init_cfg', None):
            setattr(part, 'init_cfg', None)  # noqa: B010  mypy: a tensor?
    module.init_cfg = ConfigDict(type='Pretrained',
                                 checkpoint=start.checkpoint)
    adapt_files(model, folder)
    check_files(model)
    return ConfigDict(module.init_cfg)


def check_whole(start: Start, model: nn.Module, module: nn.Module) -> str:
    """Check a detector's checkpoint: the whole backbone must be in it.

    Returns:
        str: What of it is not loaded, such as the heads of other classes;
        '' if all is.
    """
    path = start.checkpoint or ''
    fit_names(read_start(path), module.state_dict(), path)
    return check_checkpoint(model, load_weights(path), path) or ''


def load_backbone(start: Start, module: nn.Module,
                  folder: str) -> dict[str, Any]:
    """Load a start into a network, all of its tensors.

    Args:
        start (Start): The weights; random ones are those that
            ``init_weights`` gives.
        module (nn.Module): The network.
        folder (str): See :func:`init_of`.

    Returns:
        dict: The pixels that the file says it was trained with, as
        ``recipe_of`` gives them.
    """
    holder = nn.Module()
    holder.backbone = module
    init = init_of(start, holder, module, folder)
    if init is None:
        getattr(module, 'init_weights')()  # noqa: B009  so has BaseModule
        return {}
    content = load_weights(init.checkpoint)
    tensors = tensors_of(content, init.checkpoint)
    wanted = module.state_dict()
    module.load_state_dict(
        {key: value for key, value in tensors.items() if key in wanted},
        strict=False)
    return recipe_of(content.get('meta'))
