"""Making an index of photographs, and noticing that one is out of date."""
import os
import os.path as osp
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import BinaryIO

import numpy as np
from mmengine.logging import print_log

from ..errors import MissingFileError, UserError
from ..ops.places import evenly_spaced
from .far_shards import is_far, with_far
from .image_files import (
    find_files,
    images_of,
    is_of_run,
    is_of_system,
    left_out,
)
from .image_io import IMG_EXTENSIONS, header_size
from .keys import encode
from .photo_index import PHOTO, PhotoIndex, write_index
from .shard_scan import Shard, scan_shard

MOST_CHECKED = 1000
"""Folders, or tar files, that each start compares with an index."""
_THREADS = 8
_PART = 1000
_HEADER = 1 << 15
_TICK = 10**8
"""Nanoseconds before a listing, in which a change may keep the same time."""


def index_folder(folder: str,
                 path: str,
                 extensions: tuple[str, ...] | None = None,
                 sizes: bool = True) -> PhotoIndex:
    """Write the index of a local folder, searched with its subfolders.

    Args:
        folder (str): The folder.
        path (str): The index to write.
        extensions (tuple[str, ...], optional): Endings of photographs.
            Defaults to None, as ``SceneDataset`` has it.
        sizes (bool): Read the header of each photograph for its size in
            pixels. Defaults to True.

    Returns:
        PhotoIndex: The index.

    Raises:
        UserError: If there is no photograph.
    """
    began = time.time_ns() - _TICK
    folder = osp.abspath(folder)
    found = find_files(folder)
    names = images_of(folder, found.files, extensions, True)
    rest = left_out(found, names)
    if not names:
        raise UserError(f'No image in {folder!r}: {rest or "no file"}. Put '
                        'photographs there, or name another folder')
    if rest:
        print_log(f'{folder}: left out: {rest}', logger='current')
    photos = np.zeros(len(names), PHOTO)
    photos['shard'] = -1

    def look(row: int) -> tuple[int, int, int]:
        file = osp.join(folder, names[row])
        return (os.stat(file).st_size,
                *(header_size(file) if sizes else (0, 0)))

    with ThreadPoolExecutor(_THREADS) as pool:
        # a part at a time: a pool holds a kB for each file that waits
        for first in range(0, len(names), _PART):
            rows = range(first, min(first + _PART, len(names)))
            for row, seen in zip(rows, pool.map(look, rows)):
                (photos['length'][row], photos['height'][row],
                 photos['width'][row]) = seen
    return write_index(
        path, folder, list(map(encode, names)), photos,
        folders=_folders(folder, names, began),
        made_by=[folder, *_options(extensions, sizes)])


def index_shards(shards: Sequence[str],
                 path: str,
                 extensions: tuple[str, ...] | None = None,
                 sizes: bool = True,
                 shard_in_key: bool = False,
                 given: Sequence[str] = ()) -> PhotoIndex:
    """Write the index of tar files.

    Args:
        shards (Sequence[str]): Their paths or URLs.
        path (str): The index to write.
        extensions (tuple[str, ...], optional): Endings of photographs.
            Defaults to None, those of ``image_io.IMG_EXTENSIONS``.
        sizes (bool): Read the beginning of each photograph for its size in
            pixels, but not in a store. Defaults to True.
        shard_in_key (bool): Begin keys with the name of the tar file, without
            its ending. Defaults to False.
        given (Sequence[str]): What the user gave for them, for a message on
            how to make the index again. Defaults to (), the tar files.

    Returns:
        PhotoIndex: The index.

    Raises:
        UserError: If a file is missing, truncated or no tar file, there is no
            photograph, or two have one key.
    """
    root, names = _common_root(shards)
    keys: list[bytes] = []
    parts, known = [], []
    others: Counter[str] = Counter()
    for number, (shard, name) in enumerate(zip(shards, names)):
        found, part, length = _scanned(
            shard, extensions or IMG_EXTENSIONS, sizes)
        part['shard'] = number
        known.append([name, length])
        label = osp.splitext(name)[0] + '/' if shard_in_key else ''
        keys += [encode(label + member) for member in found.names]
        parts.append(part)
        others += found.others
    if others:
        print_log(
            'Left out of the tar files: ' + ', '.join(
                f'{count} {ending}' for ending, count in
                others.most_common(8)), logger='current')
    return write_index(
        path, root, keys, np.concatenate([np.zeros(0, PHOTO), *parts]), known,
        made_by=[*(given or shards), *_options(extensions, sizes),
                 *['--shard-in-key'] * shard_in_key])


def check_current(index: PhotoIndex) -> None:
    """Refuse an index whose photographs have changed, as far as is cheap.

    Looks at up to :data:`MOST_CHECKED` folders, or tar files. A folder that
    has changed is listed, with those of its subfolders that are new.

    Args:
        index (PhotoIndex): The index.

    Raises:
        UserError: Names the index, what has changed and how to make it again.
    """
    try:
        changes = _changed_shards(index) or _changed_folders(index)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{index.path}: photo_index.json is altered ({error!r}): make the '
            f'index again by {index.again()}') from error
    if changes:
        raise UserError(
            f'The index {index.path} is out of date: {changes}. Make it again '
            f'by {index.again()}')


def _changed_shards(index: PhotoIndex) -> str:
    """What has become of the local tar files of an index."""
    known = index.manifest['shards']
    for place in evenly_spaced(len(known), MOST_CHECKED):
        name, length = known[place]
        file = osp.join(index.root, name)
        if is_far(file):
            return ''
        if not osp.isfile(file):
            return f'the tar file {file} is gone'
        if (found := osp.getsize(file)) != length:
            return f'the tar file {file} has {found} bytes, not {length}'
    return ''


def _changed_folders(index: PhotoIndex) -> str:
    """What has become of the folders of an index."""
    extensions = _extensions(index)
    for name, changed, count in index.manifest['folders']:
        folder = osp.join(index.root, name.rstrip('/'))
        if not osp.isdir(folder):
            return f'the folder {folder} is gone'
        if os.stat(folder).st_mtime_ns == changed:
            continue
        files, folders = _listed(folder)
        found = images_of(folder, files, extensions, True)
        if new := [file for file in found if index.row(name + file) < 0]:
            return f'{osp.join(folder, new[0])} is new'
        if len(found) != count:
            return (f'{folder} holds {len(found)} photographs, not {count} as '
                    'before')
        for each in folders:
            inner = osp.join(folder, each)
            if not index.holds_below(name + each) and images_of(
                    inner, find_files(inner).files, extensions, True):
                return f'{inner} is new'
    return ''


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """Files and folders in a folder, such as a listing looks at."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_of_system(entry.name):
                continue
            if entry.is_file():
                files.append(entry.name)
            elif entry.is_dir() and not entry.is_symlink() and (
                    not is_of_run(entry.name, set(os.listdir(entry.path)))):
                folders.append(entry.name)
    return files, folders


def _folders(root: str, names: Iterable[str],
             began: int) -> list[tuple[str, int, int]]:
    """Folders, relative to the root and with '/', for a later comparison."""
    counts = Counter(name.rpartition('/')[0] for name in names)
    for folder in list(counts):
        while folder:
            folder = folder.rpartition('/')[0]
            counts.setdefault(folder, 0)
    folders = sorted(counts)
    chosen = [folders[place]
              for place in evenly_spaced(len(folders), MOST_CHECKED)]
    noted = []
    for folder in chosen:
        changed = os.stat(osp.join(root, folder)).st_mtime_ns
        noted.append((f'{folder}/' if folder else '',
                      changed if changed < began else -1, counts[folder]))
    return noted


def _extensions(index: PhotoIndex) -> tuple[str, ...] | None:
    words = index.manifest['made_by']
    return tuple(words[words.index('--extensions') + 1].split(',')) if (
        '--extensions' in words) else None


def _options(extensions: tuple[str, ...] | None, sizes: bool) -> list[str]:
    """The options that make an index again."""
    return [*(['--extensions', ','.join(extensions)] if extensions else []),
            *['--no-sizes'] * (not sizes)]


def _scanned(shard: str, extensions: tuple[str, ...],
             sizes: bool) -> tuple[Shard, np.ndarray, int]:
    """The photographs of a tar file, their entries, and its bytes."""

    def scan(file: BinaryIO) -> tuple[Shard, np.ndarray, int]:
        found = scan_shard(file, shard, extensions)
        part = np.zeros(len(found.names), PHOTO)
        part['start'], part['length'] = found.starts, found.lengths
        if sizes and not is_far(shard):
            _note_sizes(file, found, part)
        return found, part, file.seek(0, os.SEEK_END)

    if is_far(shard):
        return with_far(shard, scan)
    try:
        with open(shard, 'rb') as file:
            return scan(file)
    except FileNotFoundError as error:
        raise MissingFileError(f'The tar file {shard!r} does not exist'
                               ) from error


def _common_root(shards: Sequence[str]) -> tuple[str, list[str]]:
    """The folder, or URL, that holds all tar files; their names in it."""
    paths = [shard if is_far(shard) else osp.abspath(shard)
             for shard in shards]
    root = osp.dirname(paths[0])
    while not all(path.startswith(f'{root}/') for path in paths):
        shorter = osp.dirname(root)
        if shorter == root or shorter.endswith(':/'):
            raise UserError(
                f'{shards[0]} and {shards[-1]} have no folder in common: make '
                'an index for each of the two places')
        root = shorter
    return root, [path[len(root) + 1:] for path in paths]


def _note_sizes(file: BinaryIO, found: Shard, part: np.ndarray) -> None:
    """Read the sizes in pixels of the photographs of a tar file."""
    for row, (start, length) in enumerate(zip(found.starts, found.lengths)):
        file.seek(start)
        head = BytesIO(file.read(min(length, _HEADER)))
        part['height'][row], part['width'][row] = header_size(head)
