"""What a folder of photographs holds: counts, sizes, what is wrong."""
import os
import os.path as osp
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from mmengine.utils import ProgressBar
from PIL import Image

from ..commands import command
from ..errors import MissingFileError, UserError
from ..files import sha256
from ..ops.places import evenly_spaced
from .image_files import find_files, images_of, left_out
from .image_io import BrokenImageError, read_image
from .index_making import check_current
from .photo_index import PhotoIndex, is_index

TINY = 64
"""Pixels of the short side, below which two crops show hardly anything."""
_PART = 1000


@dataclass
class Survey:
    """What was seen of a folder."""

    folder: str
    names: Sequence[str]
    """All images, relative to the folder, sorted."""
    looked: int = 0
    """How many of them were decoded."""
    left_out: str = ''
    """What else lies there; '' if nothing does."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Height and width of those that could be decoded."""
    broken: list[str] = field(default_factory=list)
    """Path and reason of those that could not."""
    tiny: list[str] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    """How often each mode of Pillow that is not RGB occurs."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Names of files of one content."""

    @property
    def usable(self) -> int:
        """Images that can be read, where a part was looked at an estimate."""
        if not self.looked:
            return 0
        return round(len(self.names) * len(self.sizes) / self.looked)

    def describe_sizes(self) -> str:
        """Typical and extreme sizes, width first; '' if none was read."""
        if not self.sizes:
            return ''
        by_area = sorted(self.sizes, key=lambda size: size[0] * size[1])
        low, middle, high = (
            f'{size[1]}x{size[0]}'
            for size in (by_area[0], by_area[len(by_area) // 2], by_area[-1]))
        return middle if low == high else f'{middle} (from {low} to {high})'


class _Seen(NamedTuple):
    size: tuple[int, int] | None
    broken: str
    mode: str


def survey(folder: str,
           most: int | None = None,
           duplicates: bool = False,
           bar: bool = True) -> Survey:
    """Look at the photographs of a local folder.

    Args:
        folder (str): The folder, which is searched with its subfolders; or
            an index.
        most (int, optional): Decode no more than so many, evenly spread.
            Defaults to None, all.
        duplicates (bool): Compare the content of files of one size, all of
            them, but not those of an index. Defaults to False.
        bar (bool): Show on stderr how far it is, where that is a terminal.
            Defaults to True.

    Returns:
        Survey: What was seen.

    Raises:
        UserError: If there is no such folder, or no image in it.
    """
    names, rest, path = _listed(folder)
    chosen = [
        names[place]
        for place in evenly_spaced(len(names), most or len(names))
    ]
    seen = Survey(folder, names, len(chosen), rest)
    shown = ProgressBar(len(chosen), file=sys.stderr) if (
        bar and sys.stderr.isatty()) else None
    for name, one in _looks(chosen, path):
        if one.size is None:
            seen.broken.append(one.broken)
        else:
            seen.sizes.append(one.size)
            if min(one.size) < TINY:
                seen.tiny.append(name)
        if one.mode not in ('RGB', ''):
            seen.modes[one.mode] += 1
        if shown is not None:
            shown.update()
    if shown is not None:
        sys.stderr.write('\n')
    if duplicates and not is_index(folder):
        seen.duplicates = find_duplicates(folder, names)
    return seen


def _listed(folder: str) -> tuple[Sequence[str], str, Callable[[str], str]]:
    """Names of images, what else lies there, and what gives their paths."""
    if is_index(folder):
        index = PhotoIndex(folder)
        check_current(index)
        return index.keys(), '', lambda name: index.photo(index.row(name))
    if not osp.isdir(folder):
        if osp.exists(folder):
            raise UserError(f'{folder} is a file: expected the folder of the '
                            'photographs')
        raise MissingFileError(f'{folder}: no such folder of photographs (the '
                               f'current folder is {os.getcwd()})')
    found = find_files(folder)
    names = images_of(folder, found.files, None, True)
    rest = left_out(found, names)
    if not names:
        tars = any(name.endswith('.tar') for name in found.files)
        raise UserError(f'{folder} holds no photographs'
                        + (f'; it holds {rest}' if rest else ' at all') + (
                            '. Make an index of the tar files, and give that: '
                            + command('index_photos', folder, '--out', 'INDEX')
                            if tars else '. Give a folder of pictures, such '
                            'as .jpg or .png files; subfolders are searched'))
    return names, rest, partial(osp.join, folder)


def find_duplicates(folder: str, names: Sequence[str]) -> list[list[str]]:
    """Find files of one content; only those of one length are read.

    Args:
        folder (str): The folder.
        names (Sequence[str]): Files in it.

    Returns:
        list[list[str]]: Names of each content that occurs more than once.
    """
    groups: dict[tuple[int, str], list[str]] = defaultdict(list)
    lengths: dict[int, list[str]] = defaultdict(list)
    for name in names:
        try:
            lengths[osp.getsize(osp.join(folder, name))].append(name)
        except OSError:
            continue
    for length, alike in lengths.items():
        if len(alike) == 1 or not length:
            continue
        for name in alike:
            try:
                groups[length, sha256(osp.join(folder, name))].append(name)
            except OSError:
                continue
    return [group for group in groups.values() if len(group) > 1]


def typical_pixels(sizes: Sequence[tuple[int, int]]) -> float:
    """Mean of the pixels of images; 0 if there are none."""
    return float(np.mean([h * w for h, w in sizes])) if sizes else 0.


def _looks(names: Sequence[str],
           path: Callable[[str], str]) -> Iterator[tuple[str, _Seen]]:
    """Look at files, with two threads."""
    with ThreadPoolExecutor(2) as pool:
        # a part at a time: a pool holds a kB for each file that waits
        for first in range(0, len(names), _PART):
            part = names[first:first + _PART]
            yield from zip(part, pool.map(_look, map(path, part)))


def _look(path: str) -> _Seen:
    try:
        image = read_image(path)
    except BrokenImageError as error:
        return _Seen(None, str(error), '')
    try:
        with Image.open(path) as picture:
            mode = picture.mode
    except Exception:  # OpenCV has read it; Pillow raises all kinds
        mode = ''
    return _Seen((image.shape[0], image.shape[1]), '', mode)
