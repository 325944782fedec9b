"""Whether a config trains what it seems to."""
from collections.abc import Callable, Iterator
from functools import partial

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..engine.batch_check import rate_advice
from ..engine.config_checks import (
    check_banks,
    check_clusters,
    check_data_root,
    check_keys,
    check_load_from,
    check_mask_interval,
    check_numbers,
    check_schedule,
)
from ..engine.start_check import check_inits, check_start
from ..findings import Finding
from ..transfer.annotation_check import (
    check_annotations,
    check_config,
    check_file_kinds,
)
from ..transfer.pretrained_check import check_files
from ..transfer.recipe_check import check_recipe
from ..transfer.segmentation_check import check_masks
from .environment import guarded

_AREA = 'config'
_REFUSALS: tuple[tuple[str, Callable], ...] = (
    ('keys', check_keys),
    ('data root', check_data_root),
    ('load_from', check_load_from),
    ('mask banks', check_banks),
    ('numbers', check_numbers),
    ('weights to start from', check_inits),
    ('kinds of files', check_file_kinds),
)
_WARNINGS: tuple[tuple[str, Callable], ...] = (
    ('schedules', check_schedule),
    ('mask interval and epochs', check_mask_interval),
    ('clusters and cells', check_clusters),
    ('start and recipe', check_start),
)


def examine_config(cfg: Config, processes: int) -> Iterator[Finding]:
    """Look at a config as tools/train.py does before it trains.

    Args:
        cfg (Config): Complete: options are in it.
        processes (int): How many would train.

    Yields:
        Finding: An error for what would be refused, a warning for what would
        train for nothing, and what is sound.
    """
    sound = []
    for name, check in _REFUSALS:
        found = list(guarded(_AREA, partial(_refused, check, cfg)))
        yield from found
        sound += [] if found else [name]
    for name, check in _WARNINGS:
        found = list(guarded(_AREA, partial(_warned, check, cfg)))
        yield from found
        sound += [] if found else [name]
    line = rate_advice(
        cfg.get('auto_scale_lr') or {}, cfg.get('optim_wrapper') or {},
        (cfg.get('train_dataloader') or {}).get('batch_size'), processes)
    if line:
        yield _warning(line)
    else:
        sound.append('rate and batch')
    if sound:
        yield Finding(_AREA, 'ok', f'sound: {", ".join(sound)}')
    yield from guarded(_AREA, lambda: _transfer(cfg))


def _refused(check: Callable, cfg: Config) -> Iterator[Finding]:
    check(cfg)
    yield from ()


def _warned(check: Callable, cfg: Config) -> Iterator[Finding]:
    for line in check(cfg):
        yield _warning(line)


def _warning(line: str) -> Finding:
    """A line of ours says what was found, and then what to set."""
    found, mark, fix = line.rpartition('; set ')
    if mark:
        return Finding(_AREA, 'warning', found, f'set {fix}')
    found, mark, fix = line.partition('): ')
    if mark:
        return Finding(_AREA, 'warning', f'{found})', fix)
    found, _, fix = line.partition(': ')
    return Finding(_AREA, 'warning', found, fix)


def _transfer(cfg: Config) -> Iterator[Finding]:
    """What a config that fine-tunes starts from, and its annotations."""
    if cfg.get('default_scope') == 'mmseg':
        for line in [*check_config(cfg), *check_masks(cfg)]:
            yield Finding(_AREA, 'ok', line)
    if cfg.get('default_scope') != 'mmdet':
        return
    init_default_scope('mmdet')
    lines = [*check_config(cfg), *check_annotations(cfg)]
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    check_files(model)
    for line in [*lines, *check_recipe(model, cfg)]:
        yield Finding(_AREA, 'ok', line)
