"""Folders, maps and errors that both formats of a mask bank share."""
import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine import fileio

from ..commands import command
from ..errors import UserError
from .far_folder import FarFolder
from .far_shards import is_far
from .keys import check_key, decode

Path = str | os.PathLike[str]
MANIFEST = 'manifest.json'


def local(path: Path) -> str:
    """A path as text; one that cannot be memory-mapped is refused."""
    path = os.fspath(path)
    if is_far(path):
        raise UserError(
            'The arrays of a mask bank of format 1 are memory-mapped, so it '
            f'must be on a local or mounted file system; found {path!r}. Give '
            'a local path, copy the round there first, or begin a run with '
            'format 2 (default_hooks.mask_update.bank_format)')
    return path


def located(path: Path) -> str:
    """A path, or the URL of a store, as text."""
    path = os.fspath(path)
    return FarFolder(path).url if is_far(path) else path


def round_path(root: Path, number: int) -> str:
    """Folder of a published round, or its URL."""
    if number < 0:
        raise UserError(f'Mask rounds count from 0, found {number}')
    return os.path.join(located(root), f'round_{number:04d}')


def beside(root: Path, number: int, kind: str) -> str:
    """Folder of an unfinished round; readers ignore names with a dot."""
    return fileio.join_path(local(root), f'.round_{number:04d}.{kind}')


def same_key(indices: list[int], key: bytes, count: int) -> UserError:
    """The error that two images have one key.

    Args:
        indices (list[int]): Two of the images.
        key (bytes): Their key.
        count (int): Number of such pairs.
    """
    return UserError(
        f'Images {indices} have the same key {decode(key)!r} ({count} such): '
        'a key is the path relative to data_root, or to the image folder '
        'where that is absolute. List each image once, and give data sets '
        "that are joined a common data_root, with data_prefix.img_path='a/' "
        "of one and 'b/' of the other")


def different_clusterings(numbers: list[int]) -> UserError:
    """The error that not all images have as many label maps."""
    return UserError('All images of a round must have the same number of '
                     f'clusterings, found {numbers}')


def stored_map(key: str, label_map: np.ndarray) -> np.ndarray:
    """Check a label map and bring it to the form in which it is stored.

    Args:
        key (str): The image's key.
        label_map (np.ndarray): (h, w) or (V, h, w) integers in 0..65535.

    Returns:
        np.ndarray: (V, h, w), uint8 or, if some id is above 255, uint16.
    """
    label_map = np.asarray(label_map)
    low, high = 0, 255
    if label_map.size and label_map.dtype != np.uint8:
        low, high = label_map.min(), label_map.max()
    if (label_map.ndim not in (2, 3) or not label_map.size
            or not np.issubdtype(label_map.dtype, np.integer)
            or low < 0 or high > 65535):
        span = f' from {low} to {high}' if label_map.size else ''
        raise UserError(
            f'The label map of {key!r} must be (h, w) or (V, h, w) '
            f'integers in 0..65535, found {label_map.shape} '
            f'{label_map.dtype}{span}')
    check_key(key)
    dtype = np.dtype('u1' if high < 256 else '<u2')
    return label_map.reshape(-1, *label_map.shape[-2:]).astype(
        dtype, copy=False)


def altered(folder: str, name: str, expected: str,
            found: object) -> UserError:
    """The error that a file of a round is not what was published."""
    return UserError(
        f'{folder}: {name} is altered or damaged: expected {expected}, '
        f'found {found}. Make the round again from a checkpoint that goes '
        'on with it: ' + command('generate_masks', 'CONFIG', 'CHECKPOINT',
                                 '--again'))


def check_hashes(folder: str, name: str, content: mmap.mmap,
                 blocks: Sequence[Any]) -> None:
    """Compare a file of format 2 with the SHA-256 of each of its blocks.

    Args:
        folder (str): Path or URL of the round, for messages.
        name (str): The file.
        content (mmap): What it holds.
        blocks (Sequence): Its blocks, as the manifest has them.

    Raises:
        UserError: If a block was altered.
    """
    for block in blocks:
        start, stop = block['start'], block['start'] + block['bytes']
        with memoryview(content) as view, view[start:stop] as part:
            digest = hashlib.sha256(part).hexdigest()
        if digest != block['sha256']:
            raise altered(folder, f'{name}, bytes {start} to {stop},',
                          f'SHA-256 {block["sha256"]}', digest)


@contextmanager
def explained(folder: str) -> Iterator[None]:
    """Add to an operating system's error the folder and the free space."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # ours, which says all
            raise
        parent = os.path.abspath(folder)
        while not os.path.exists(parent):
            parent = os.path.dirname(parent)
        raise OSError(
            error.errno, f'Writing masks to {folder} failed ({error}); its '
            f'disk has {shutil.disk_usage(parent).free} bytes free. Published '
            'rounds are untouched: make room, or the folder writable, and '
            'resume') from error
