"""Checks for mistakes in a config."""
import ast
import difflib
import inspect
import os
import os.path as osp
import re
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import init_process_group
from torch.utils.data import DataLoader

from ..datasets.mask_files import located
from ..errors import MissingFileError, UserError
from ..safe_load import is_address
from .view_crops import view_crops


def _arguments(*functions: Callable) -> set[str]:
    """Names of the arguments of functions."""
    return {
        name
        for function in functions
        for name in inspect.signature(function).parameters
    }


def _read(name: str, code: Any) -> set[str]:
    """Keys that code reads from a dict with a given name."""
    found = rf"(?<![\w.]){name}(?:\.get\(|\.pop\(|\[)\s*'(\w+)'"
    return set(re.findall(found, inspect.getsource(code)))


# What torch and mmengine accept at a place of the config, taken from their own
# signatures: a valid option need not be in a recipe.
_LOADER = _arguments(DataLoader) | _read('dataloader_cfg',
                                         Runner.build_dataloader)
_READERS = {
    '': _arguments(Runner) | _read(r'(?:self\.)?cfg', Runner) | {
        # mmengine.Config and tools/train.py
        'custom_imports', 'runner_type'
    },
    'auto_scale_lr': _read('auto_scale_lr', Runner.scale_lr),
    'compile': _arguments(torch.compile),
    'env_cfg': _read('env_cfg', Runner.setup_env),
    'env_cfg.dist_cfg': _arguments(init_dist, init_process_group),
    'env_cfg.mp_cfg': _arguments(set_multi_processing),
    'optim_wrapper.paramwise_cfg': _read(r'self\.paramwise_cfg',
                                         DefaultOptimWrapperConstructor),
    'randomness': _arguments(Runner.set_randomness),
    'train_dataloader': _LOADER,
    'val_dataloader': _LOADER,
    'test_dataloader': _LOADER,
}
RUNNER_KEYS = _READERS['']
# Short options for settings deep in the config, see config_options.py.
SHORT_OPTIONS = ('colours_on_device', 'data', 'data_on_device', 'data_root',
                 'timm_name', 'view_size')
# The smallest valid numbers of the run.
_LEAST = {
    'train_cfg.max_epochs': 1,
    'train_cfg.max_iters': 1,
    **{
        f'{loader}_dataloader.{key}': least
        for loader in ('train', 'val', 'test')
        for key, least in (('batch_size', 1), ('num_workers', 0))
    },
    'model.neck.grid_stride': 1,
}
# Spans of a schedule, which must be as long as the schedule.
_SPANS = ('T_max', 'total_steps')


def check_keys(cfg: Config) -> None:
    """Refuse a misspelt setting of the Runner, which nothing would read.

    Other names are variables of the config. Below the top level, the
    constructors of components refuse unknown arguments.

    Raises:
        ValueError: If there is one; the message names the intended setting.
    """
    for key in cfg:
        near = difflib.get_close_matches(
            key, RUNNER_KEYS, n=1, cutoff=0.9)
        if key not in RUNNER_KEYS and near:
            raise UserError(
                f'{cfg.filename}: nothing reads the key {key!r}; did you mean '
                f'{near[0]!r}? (A variable of your own needs a name that '
                'differs more.)')


def check_options(cfg: Config, options: dict) -> None:
    """Refuse options that nothing would read.

    An option is known if the config has it, if it is an argument of a
    component (whose constructor checks it), or if the Runner, or what it
    passes the setting to, accepts it.

    Raises:
        ValueError: If an option is unknown; the message names the nearest key.
    """
    for option in options:
        node: Any = cfg._cfg_dict
        parts = option.split('.')
        for depth, part in enumerate(parts):
            if isinstance(node, (list, tuple)):
                if not part.isdigit() or int(part) >= len(node):
                    raise UserError(_unknown(option, depth, parts,
                                             range(len(node))))
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                known = _READERS.get('.'.join(parts[:depth]), set())
                if part not in known and (
                        isinstance(node, dict) and 'type' not in node) and (
                            depth == 0
                            # Its reader may accept more than is known here.
                            or difflib.get_close_matches(
                                part, {*node, *known}, 1, cutoff=0.8)):
                    raise UserError(
                        _unknown(option, depth, parts, {*node, *known}
                                 if depth else node))
                break


def _unknown(option: str, depth: int, parts: list[str], known: Any) -> str:
    names = [str(name) for name in known]
    if depth == 0:
        names = list({*names, *SHORT_OPTIONS})
    near = difflib.get_close_matches(parts[depth], names, n=3, cutoff=0.5)
    place = '.'.join(parts[:depth]) or 'the config'
    return (f'--cfg-options {option}: {place} has no {parts[depth]!r}'
            + (f'; did you mean {", ".join(near)}?' if near else
               f'; it has {", ".join(sorted(names)[:20])}'))


def check_data_root(cfg: Config) -> None:
    """Refuse a ``data_root`` that a config sets but no data set uses.

    A base config has then already built its data sets from its own.

    Raises:
        UserError: If there is one; the message says what to set instead.
    """
    root = cfg.get('data_root')
    if not isinstance(root, str) or not root or not cfg.get(
            'train_dataloader') or not osp.isfile(cfg.filename or ''):
        return
    with open(cfg.filename, encoding='utf-8') as file:
        own = {
            node.targets[0].id
            for node in ast.parse(file.read()).body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
        }
    used = repr(root.rstrip('/'))[:-1] in repr(cfg.train_dataloader)
    # A config without a base, as dumped by a run, has built its own data sets.
    if {'_base_', 'data_root'} <= own and not used:
        raise UserError(
            f'{cfg.filename}: data_root={root!r} is used by no data set, '
            'since those of the base were made from its own. Set '
            'train_dataloader=dict(dataset=dict(data_root=data_root)) as '
            'well, or --cfg-options data_root=...')


def check_numbers(cfg: Config) -> None:
    """Refuse sizes of the run that would fail deep inside torch.

    Raises:
        UserError: If one is invalid; the message names the key and valid
            values.
    """
    for key, least in _LEAST.items():
        node: Any = cfg._cfg_dict
        for part in key.split('.'):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None and (isinstance(node, bool)
                                 or not isinstance(node, int)
                                 or node < least):
            raise UserError(f'{key} must be a whole number from {least} on, '
                            f'but is {node!r}')
    rate = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    if rate is not None and (not isinstance(rate, (int, float)) or rate < 0):
        raise UserError('optim_wrapper.optimizer.lr must be a number from 0 '
                        f'on, but is {rate!r}')


def check_mask_interval(cfg: Config) -> list[str]:
    """Report masks that should be renewed during the run but never are.

    Args:
        cfg (Config): A config that pretrains, or another one.

    Returns:
        list[str]: One line, or none.
    """
    hook = (cfg.get('default_hooks') or {}).get('mask_update') or {}
    length, key, by_epoch = _length(cfg)
    if not by_epoch or not hook or not length or length < 2:
        return []
    interval = hook.get('interval', 100)
    name = 'start' if hook.get('start') else 'interval'
    first = hook.get('start') or interval
    if interval < 0 or first < length:
        return []
    return [
        f'default_hooks.mask_update.{name}={first}: the run ends before the '
        f'first update ({key} is {length}), so that all of it has the masks '
        f'of round 0; set it to {max(1, length // 6)}, say, or interval to '
        '-1 if that is meant'
    ]


def check_clusters(cfg: Config) -> list[str]:
    """Say it where masks have more clusters than a view has cells.

    K counts for a group of photographs, of which each has a part of the
    clusters only; so the mean of a range is compared.

    Args:
        cfg (Config): A config that pretrains, or another one.

    Returns:
        list[str]: One line, or none.
    """
    hook = (cfg.get('default_hooks') or {}).get('mask_update') or {}
    clusters = (hook.get('source') or {}).get('num_clusters')
    stride = ((cfg.get('model') or {}).get('neck') or {}).get('grid_stride')
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    sides = [crop['scale'] for crop in view_crops(dataset).values()
             if isinstance(crop.get('scale'), int)]
    if not clusters or not sides or not isinstance(stride, int):
        return []
    span = clusters if isinstance(clusters, (list, tuple)) else [clusters] * 2
    if not all(isinstance(number, int) for number in span):
        return []
    cells = (min(sides) // stride)**2
    if sum(span) / 2 <= cells:
        return []
    return [
        'default_hooks.mask_update.source.num_clusters='
        f'{clusters}: a view of {min(sides)} pixels at '
        f'model.neck.grid_stride={stride} has {cells} cells, and more '
        'clusters than cells turn regions into single cells; set it to '
        f'({min(4, max(1, cells))}, {cells}), say, or take larger views'
    ]


def check_load_from(cfg: Config) -> None:
    """Refuse a checkpoint that does not exist, before any work.

    Raises:
        UserError: If ``load_from`` names a path without a file, or an address
            of an unknown type.
    """
    path = cfg.get('load_from')
    if path and not is_address(path) and not osp.isfile(
            osp.expanduser(path)):
        raise MissingFileError(
            f'the checkpoint {path} (load_from, or that of the command line) '
            f'does not exist: the current folder is {os.getcwd()}')


def check_banks(cfg: Config) -> None:
    """Refuse addresses of mask banks that hold credentials.

    The toolbox logs the config before it builds anything.

    Raises:
        UserError: If there is one.
    """

    def check(node: Any) -> None:
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in entries:
            if isinstance(value, (dict, list, tuple)):
                check(value)
            elif key in ('bank_root', 'mask_bank') and isinstance(value, str):
                located(value)

    check(cfg._cfg_dict)


def check_schedule(cfg: Config) -> list[str]:
    """Find schedules that do not fit the length of the run.

    mmengine ends a scheduler without an ``end`` at the end of the run, and
    uses all given numbers as they are. A run of another length then silently
    continues at the lowest rate, or stops before the rate has fallen. Only
    numbers in the unit of the training loop (epochs or iterations) can be
    compared, because the number of iterations per epoch is not known here.

    Args:
        cfg (Config): A config of any OpenMMLab package.

    Returns:
        list[str]: A line for each number that does not fit, with its key, the
        reason, and what to set; empty if all fit.
    """
    length, key, by_epoch = _length(cfg)
    if length is None:
        return []
    found: list[str] = []
    schedules = cfg.get('param_scheduler') or []
    named = {'param_scheduler': schedules}
    if isinstance(schedules, dict) and 'type' not in schedules:
        # of several optimizers
        named = {
            f'param_scheduler.{name}': value
            for name, value in schedules.items()
        }
    for name, entries in named.items():
        if isinstance(entries, dict):
            parts = {name: entries}
        else:
            parts = {f'{name}.{i}': part for i, part in enumerate(entries)}
        parts = {
            name: part
            for name, part in parts.items()
            if part.get('by_epoch', True) == by_epoch
        }
        for name, part in parts.items():
            others = [other for other in parts.values() if other is not part]
            found += [
                f'{line} ({key} is {length})'
                for line in _check(name, part, others, length)
            ]
    return found


def _length(cfg: Config) -> tuple[Any, str, bool]:
    """Length of the run, its key, and whether it is in epochs."""
    loop = cfg.get('train_cfg') or {}
    for name, by_epoch in (('max_epochs', True), ('max_iters', False)):
        if loop.get(name) is not None:
            return loop[name], f'train_cfg.{name}', by_epoch
    return None, '', True


def _check(name: str, part: dict[str, Any], others: list[dict[str, Any]],
           length: int) -> list[str]:
    """Lines about one scheduler."""
    begin, end = _span(part, length)
    kind = _kind(part)
    if begin >= length:
        return [
            f'{name}.begin={begin}: {kind} never begins; set it below '
            f'{length}'
        ]
    if _is_warm_up(part):
        if end < length:
            return []
        return [
            f'{name}.end={end}: the warm-up takes the whole run, so the rate '
            "never reaches the optimizer's; " +
            (f'set it to {max(1, length // 10)}, say'
             if length > 1 else 'a run of 1 has no room for one')
        ]
    lines = []
    if end > length:
        lines.append(f'{name}.end={end}: the run stops before {kind} has '
                     f'ended; set it to {length}, or leave it out')
    elif end < length and not any(
            _span(other, length)[0] <= end < _span(other, length)[1]
            and not _is_warm_up(other) for other in others):
        lines.append(f'{name}.end={end}: {kind} ends before the run, which '
                     'continues at the last rate; set it to '
                     f'{length}, or leave it out')
    span = min(end, length) - begin
    lines += [
        f'{name}.{key}={part[key]}: {kind} lasts {span}; set it to {span}'
        + (', or leave it out' if key == 'T_max' else '') for key in _SPANS
        if part.get(key) is not None and part[key] != span
    ]
    lines += _check_steps(name, part, span, begin, length)
    return lines


def _check_steps(name: str, part: dict[str, Any], span: int, begin: int,
                 length: int) -> list[str]:
    """Lines about the steps of one scheduler."""
    size, milestones = part.get('step_size'), part.get('milestones')
    if size is not None and size >= span:
        return [
            f'{name}.step_size={size}: the rate never falls; set it below '
            f'{span}'
        ]
    if not milestones:
        return []
    # they are counted from `begin`
    last = begin + max(milestones)
    meant, new = (part.get('end') or last + 1) - begin, length - begin
    better = [
        min(round(milestone * new / meant), new - 1)
        for milestone in milestones
    ]
    if last >= length:
        why = 'the run ends before the last of them'
    elif length > 2 * last:
        why = 'the lowest rate lasts for more than half of the run'
    else:
        return []
    return [
        f'{name}.milestones={list(milestones)}: {why}; set them to {better}, '
        "say, or take dict(type='LateStepLR', fractions=...), which follows "
        'the length of the run'
    ]


def _kind(part: dict[str, Any]) -> str:
    """The scheduler's name, also if a config holds the class."""
    kind = part.get('type')
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _is_warm_up(part: dict[str, Any]) -> bool:
    """Whether the value rises to that of the optimizer."""
    kind = _kind(part).rpartition('.')[2]
    if part.get('begin'):  # what follows others holds or lowers the rate
        return False
    return 'Warmup' in kind or (
        kind.startswith('Constant') and part.get('factor', 1 / 3) < 1) or (
            kind.startswith('Linear')
            and part.get('start_factor', 1 / 3) < part.get('end_factor', 1.))


def _span(part: dict[str, Any], length: int) -> tuple[int, int]:
    """First step of a scheduler, and the step before which it ends."""
    begin, end = part.get('begin'), part.get('end')
    return begin or 0, length if end is None else end
