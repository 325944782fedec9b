"""Whether photographs can be trained on, and what views of them look like."""
import os.path as osp
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
from mmengine.config import Config

from ..datasets.photo_survey import TINY, Survey, survey
from ..findings import Finding, Severity
from ..visualization import contact_sheet
from .table import FEWEST
from .trial import build_model, draw_masks, silence

_AREA = 'data'
_NAMED = 5
_BROKEN = 0.1
"""Part of the photographs: default_hooks.mask_update.max_broken."""


def examine_photographs(folder: str) -> Iterator[Finding]:
    """Look at all photographs of a folder.

    Args:
        folder (str): The folder.

    Yields:
        Finding: Broken, tiny, duplicate and odd ones, sizes.

    Raises:
        UserError: If there is no such folder, or no image in it.
    """
    seen = survey(folder, duplicates=True)
    yield from _counts(seen)
    if seen.broken:
        many = len(seen.broken) > _BROKEN * len(seen.names)
        yield _finding(
            'error' if many else 'warning',
            f'{len(seen.broken)} of them cannot be read: '
            + _some(seen.broken),
            'remove them or fetch them again; '
            + ('so many stop a mask round '
               '(default_hooks.mask_update.max_broken)' if many else
               'training skips them'))
    if seen.tiny:
        yield _finding(
            'warning', f'{len(seen.tiny)} have a short side of less than '
            f'{TINY} pixels: {_some(seen.tiny)}',
            'two crops of them show nothing that could be told apart: move '
            'them out')
    copies = sum(len(group) - 1 for group in seen.duplicates)
    if copies:
        many = copies > 0.01 * len(seen.names)
        yield _finding(
            'warning' if many else 'note',
            f'{copies} are copies of others, byte by byte: '
            + _some([' = '.join(group[:3]) for group in seen.duplicates]),
            'regions of a copy count as those of another photograph: keep '
            'one of each')
    if seen.modes:
        words = ', '.join(f'{count} {mode}'
                          for mode, count in seen.modes.most_common())
        yield _finding('note', f'not RGB: {words} (modes of Pillow). They are '
                       'converted, as docs/data.md says')
    if seen.left_out:
        yield _finding('note', f'not used: {seen.left_out}')


def _counts(seen: Survey) -> Iterator[Finding]:
    found = (f'{len(seen.names):,} photographs in {seen.folder}, '
             f'{seen.describe_sizes() or "no sizes"} pixels')
    if seen.usable < FEWEST:
        yield _finding('error', f'{found}, of which {seen.usable} can be read',
                       f'a batch needs {FEWEST} or more')
    else:
        yield _finding('ok', found)


def draw_views(cfg: Config, folder: str, path: str,
               number: int = 4) -> Iterator[Finding]:
    """Draw two views of some photographs beside their masks.

    The masks are those that training would begin with, of random weights
    where the config names no others.

    Args:
        cfg (Config): A config that pretrains on the photographs.
        folder (str): The folder of the photographs.
        path (str): The PNG, which must not lie in it.
        number (int): How many photographs. Defaults to 4.

    Yields:
        Finding: Where it is, or why it is not drawn.
    """
    own = osp.join(osp.realpath(folder), '')
    if osp.realpath(path).startswith(own):
        yield _finding(
            'note', f'no views are drawn: {path} would be one of the '
            'photographs', 'choose another path with --views')
        return
    silence()
    model = build_model(cfg)
    root = tempfile.mkdtemp(prefix='cyborgs_views_')
    try:
        scenes, _ = draw_masks(cfg, range(number), root, model)
        images, maps = [], []
        for sample in (scenes[place] for place in range(len(scenes))):
            masks = sample['data_samples'].mask
            for view, mask in zip(sample['inputs'], masks):
                images.append(np.ascontiguousarray(
                    view.permute(1, 2, 0).numpy()[..., ::-1]))
                maps.append(np.asarray(mask))
        try:
            contact_sheet(images, {'masks of round 0': maps}, path)
        except OSError as error:
            yield _finding('warning', f'no views are drawn ({error})',
                           'choose another path with --views')
            return
    finally:
        shutil.rmtree(root, ignore_errors=True)
    yield _finding('ok', f'{len(images)} views with their masks are drawn in '
                   f'{path}: look whether crops show whole things, and '
                   'whether colours are sound')


def _finding(severity: Severity, found: str, fix: str = '') -> Finding:
    return Finding(_AREA, severity, found, fix)


def _some(names: list[str]) -> str:
    more = f' and {len(names) - _NAMED} more' * (len(names) > _NAMED)
    return '; '.join(names[:_NAMED]) + more
