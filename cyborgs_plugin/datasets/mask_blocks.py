"""Format 2 of a mask bank: blocks of images in files that no rank merges.

A block is what one rank writes at a stretch. Which images it holds follows
from their keys alone: the sorted keys are cut into parts, and within a part
the images are ordered by :func:`place`. So the block of a key is found in the
manifest, and blocks are the same for any number of ranks. See
docs/mask_bank.md.
"""
import hashlib
import json
import mmap
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, BinaryIO, TypedDict

import numpy as np
from mmengine import fileio

from ..errors import MissingFileError
from ..files import sync
from .far_banks import FarPart, FarRound
from .far_folder import FarFolder
from .far_shards import is_far
from .keys import decode, encode
from .mask_files import (
    Path,
    altered,
    beside,
    check_hashes,
    different_clusterings,
    explained,
    round_path,
    stored_map,
)

FILE_BYTES = 1 << 27
"""A rank begins another file beyond this size."""
_ALIGNED = 8
_PER_IMAGE = 8 + 3 * 4
"""Bytes of an image's entry in the index, in addition to its key."""
_MOST_FILES = 128
"""Files that a process maps at once: each of them keeps a descriptor open, and
many systems allow a process 1024."""
_WHERE = ('file', 'start')
"""Entries of a block that depend on the number of ranks."""
_NAME = r'part_\d{5}_\d{4,}(-[0-9a-f]{8})?\.masks'


class Layout(TypedDict):
    """How the images of a round are dealt to blocks."""

    num_images: int
    num_blocks: int
    salt: str
    """Hexadecimal; see :func:`place`."""
    parts: list[str]
    """The first key of each part."""
    blocks_per_part: int
    """In all parts but the last, which may have fewer."""


class Block(TypedDict):
    """One block of a round; sizes and places are in bytes."""

    number: int
    images: int
    clusterings: int
    itemsize: int
    """Of the widest ids in it, 1 or 2."""
    first: str
    """The least :func:`place` of its images, hexadecimal."""
    index: int
    """Where the index begins, after the labels."""
    key_width: int
    bytes: int
    sha256: str
    file: str
    start: int


def place(key: bytes, salt: bytes) -> bytes:
    """Place of an image among those of its part: images are sorted by it.

    Args:
        key (bytes): The image's key.
        salt (bytes): 16 bytes that differ from round to round.

    Returns:
        bytes: 16 bytes of BLAKE2b.
    """
    return hashlib.blake2b(key, digest_size=16, salt=salt).digest()


class BlockWriter:
    """Write one rank's blocks of a round, invisible to readers.

    Before the ranks write, rank 0 calls ``clear_leftovers`` while all wait.
    When all have closed, rank 0 calls ``publish_blocks`` with what
    :meth:`close` returned.

    Args:
        root (str): The bank's root, on a file system that all nodes share or
            in a store.
        number (int): The new round.
        salt (bytes): The round's, as for :func:`place`.
        rank (int): Rank of this process. Defaults to 0.
    """

    def __init__(self, root: Path, number: int, salt: bytes,
                 rank: int = 0) -> None:
        self._rank = rank
        self._far = (FarPart(round_path(root, number), rank)
                     if is_far(os.fspath(root)) else None)
        self._folder = (beside(root, number, 'partial') if self._far is None
                        else self._far.folder)
        self._salt = salt
        self._blocks: list[Block] = []
        self._files = 0
        self._file: BinaryIO | None = None
        self._number = -1
        with explained(self._folder):
            os.makedirs(self._folder, exist_ok=True)

    def add(self, number: int, key: str, label_map: np.ndarray) -> None:
        """Append one image's label map.

        Args:
            number (int): The block. All images of a block are added before
                those of another one.
            key (str): The image's path relative to ``data_root``, with '/'.
            label_map (np.ndarray): (h, w) integers in 0..65535, or (V, h, w)
                if each image of the round has V clusterings.
        """
        stored = stored_map(key, label_map)
        with explained(self._folder):
            if number != self._number:
                self._end_block()
                self._begin_block(number)
            if stored.itemsize == 2 and self._written % 2:
                self._write(b'\0')
            self._entries.append((encode(key), self._written, stored.shape,
                                  stored.itemsize))
            self._write(stored.tobytes())

    def close(self) -> list[Block]:
        """Write all to the disk.

        Returns:
            list[Block]: The blocks of this rank.
        """
        with explained(self._folder):
            self._end_block()
            self._end_file()
        return self._blocks

    def _begin_block(self, number: int) -> None:
        if self._file is None:
            self._name = f'part_{self._rank:05d}_{self._files:04d}.masks'
            if self._far is not None:
                self._name = self._far.name(self._name)
            path = fileio.join_path(self._folder, self._name)
            if os.path.exists(path):
                raise FileExistsError(
                    f'{path} is of another attempt: rank 0 must call '
                    'clear_leftovers(root) before any rank writes')
            self._file = open(path, 'xb')
            self._files += 1
        self._number, self._start = number, self._file.tell()
        self._digest = hashlib.sha256()
        self._written = 0
        self._entries: list[tuple[bytes, int, tuple[int, ...], int]] = []

    def _end_block(self) -> None:
        """Write the index of the block, which its reader needs."""
        if self._number < 0:
            return
        entries = sorted(self._entries)
        clusterings = sorted({shape[0] for _, _, shape, _ in entries})
        if len(clusterings) > 1:
            raise different_clusterings(clusterings)
        self._align()
        index = self._written
        keys = np.array([key for key, *_ in entries])
        self._write(np.array([start for _, start, *_ in entries],
                             '<i8').tobytes())
        self._write(np.array([(*shape[1:], itemsize)
                              for _, _, shape, itemsize in entries],
                             '<i4').tobytes())
        self._write(keys.tobytes())
        self._align()
        self._blocks.append(
            Block(
                number=self._number,
                images=len(entries),
                clusterings=clusterings[0],
                itemsize=max(itemsize for *_, itemsize in entries),
                first=min(place(key, self._salt) for key, *_ in entries).hex(),
                index=index,
                key_width=keys.itemsize,
                bytes=self._written,
                sha256=self._digest.hexdigest(),
                file=self._name,
                start=self._start))
        self._number = -1
        if self._start + self._written >= FILE_BYTES:
            self._end_file()

    def _end_file(self) -> None:
        if self._file is not None:
            with self._file as file:
                file.flush()
                sync(file.name)
            self._file = None
            if self._far is not None:
                self._far.finish(self._name, [
                    block for block in self._blocks
                    if block['file'] == self._name])

    def _align(self) -> None:
        self._write(bytes(-self._written % _ALIGNED))

    def _write(self, content: bytes) -> None:
        file = self._file
        if file is None:
            raise RuntimeError('_begin_block() comes first')
        try:
            file.write(content)
        except OSError:
            # Whoever holds the error holds the file, too, and while it is
            # open, deleting it gives a full disk no room back.
            with suppress(OSError):
                file.close()
            raise
        self._digest.update(content)
        self._written += len(content)


def check_blocks(folder: str, layout: Layout,
                 blocks: Iterable[Block]) -> dict[str, Any]:
    """Check that the blocks of all ranks are there, once, and whole.

    Args:
        folder (str): The folder or URL that the ranks have written to.
        layout (Layout): How the images are dealt.
        blocks (Iterable[Block]): The blocks of all ranks.

    Returns:
        dict: What the manifest says of them.
    """
    blocks = sorted(blocks, key=lambda block: block['number'])
    numbers = [block['number'] for block in blocks]
    images = sum(block['images'] for block in blocks)
    if (numbers != list(range(layout['num_blocks']))
            or images != layout['num_images']):
        missing = sorted({*range(layout['num_blocks'])} - {*numbers})
        raise RuntimeError(
            f'{folder} must get {layout["num_blocks"]} blocks of '
            f'{layout["num_images"]} images, each once, but the ranks have '
            f'written {len(blocks)} of {images}; missing are {missing[:9]}: a '
            'rank wrote fewer or other images than its part')
    if len(clusterings := {block['clusterings'] for block in blocks}) > 1:
        raise different_clusterings(sorted(clusterings))
    files = _file_sizes(blocks)
    there = _sizes(folder)
    for name, expected in files.items():
        found = there.get(name, 'no file')
        if found != expected:
            raise RuntimeError(
                f'{folder}: {name} must have {expected} bytes, found {found}. '
                'If files of ranks are missing, work_dir is likely not on a '
                'file system shared by all nodes')
    # In a store, a round that is replaced is there until it is.
    if other := [] if is_far(folder) else sorted(
            name for name in there
            if re.fullmatch(_NAME, name) and name not in files):
        raise RuntimeError(
            f'{folder} also holds {other[:9]}, of another attempt: rank 0 '
            'must call clear_leftovers(root) before any rank writes')
    kept = 'images', 'first', 'index', 'key_width', 'bytes', 'sha256', *_WHERE
    return dict(
        num_clusterings=clusterings.pop(),
        itemsize=max(block['itemsize'] for block in blocks),
        blocks=[{name: dict(block)[name] for name in kept}
                for block in blocks])


def contents(manifest: dict[str, Any]) -> bytes:
    """A manifest without where the blocks are, which depends on the ranks."""
    blocks = [{name: value for name, value in block.items()
               if name not in _WHERE} for block in manifest['blocks']]
    return json.dumps(dict(manifest, blocks=blocks), sort_keys=True).encode()


class Blocks:
    """The data of a round of format 2; maps only the files that are read.

    Args:
        folder (str): The round's folder, or its URL.
        manifest (dict): Its manifest.
    """

    def __init__(self, folder: str, manifest: dict[str, Any]) -> None:
        self._folder = folder
        self._blocks = blocks = [_checked(block)
                                 for block in manifest['blocks']]
        self._salt = bytes.fromhex(manifest['salt'])
        self._parts = [encode(key) for key in manifest['parts']]
        self._per_part = int(manifest['blocks_per_part'])
        self._num_clusterings = int(manifest['num_clusterings'])
        self._dtype = np.dtype({1: 'u1', 2: '<u2'}[manifest['itemsize']])
        self._firsts = [bytes.fromhex(block['first']) for block in blocks]
        self._rows = [0, *accumulate(block['images'] for block in blocks)]
        if (not blocks or self._per_part < 1 or len(self._salt) != 16
                or len(self._parts) != -(-len(blocks) // self._per_part)
                or self._rows[-1] != manifest['num_images']):
            raise ValueError('its numbers contradict each other')

    def open(self, verify: bool) -> None:
        """Check the size of each file and, if asked to, each SHA-256."""
        files: dict[str, list[dict]] = {}
        for block in self._blocks:
            files.setdefault(block['file'], []).append(block)
        self._place = place = (
            FarRound(self._folder, files) if is_far(self._folder) else
            _Folder(self._folder, files))
        self._file = lru_cache(_MOST_FILES)(partial(_File, place))
        for name, size in _file_sizes(self._blocks).items():
            found = place.sizes.get(name, 'no file')
            if found != size:
                raise altered(self._folder, name, f'{size} bytes', found)
        if verify:
            place.fetch(verify)

    def fetch(self) -> None:
        """Have all files on this machine, where they are not mounted."""
        self._place.fetch()

    @property
    def num_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(block['bytes'] for block in self._blocks)

    def __len__(self) -> int:
        return self._rows[-1]

    def find(self, wanted: bytes) -> int:
        """The row of a key; -1 if absent."""
        part = bisect_right(self._parts, wanted) - 1
        if part < 0:
            return -1
        first = part * self._per_part
        number = bisect_right(self._firsts, place(wanted, self._salt), first,
                              min(first + self._per_part,
                                  len(self._blocks))) - 1
        if number < first:
            return -1
        keys = self._index(number).keys
        # Truncated to the array's width; otherwise numpy would widen a copy of
        # all keys.
        row = int(keys.searchsorted(np.array(wanted, keys.dtype)))
        return (self._rows[number] + row
                if row < len(keys) and keys[row] == wanted else -1)

    def key(self, row: int) -> bytes:
        """The key of a row."""
        number = bisect_right(self._rows, row) - 1
        return bytes(self._index(number).keys[row - self._rows[number]])

    def sorted_keys(self) -> np.ndarray:
        """All keys, (n, ) 'S', sorted; reads the index of each block."""
        return np.sort(np.concatenate([
            self._index(number).keys for number in range(len(self._blocks))]))

    def maps(self, row: int) -> np.ndarray:
        """The label maps (V, h, w) of a row."""
        number = bisect_right(self._rows, row) - 1
        block, index = self._blocks[number], self._index(number)
        row -= self._rows[number]
        start = int(index.starts[row])
        height, width, itemsize = index.sizes[row].tolist()
        count = self._num_clusterings * height * width
        if (itemsize not in (1, 2) or start < 0 or min(height, width) < 1
                or start + itemsize * count > block['index']):
            raise altered(
                self._folder, block['file'], 'labels of '
                f'{decode(bytes(index.keys[row]))!r} before byte '
                f'{block["index"]} of the block', (start, height, width))
        labels = np.frombuffer(
            self._file(block['file']).content, f'<u{itemsize}', count,
            block['start'] + start).reshape(-1, height, width)
        if labels.dtype != self._dtype:  # other images have more ids
            labels = labels.astype(self._dtype)
            labels.flags.writeable = False
        return labels

    def _index(self, number: int) -> '_Index':
        """The index of a block, kept as long as its file is mapped."""
        block = self._blocks[number]
        file = self._file(block['file'])
        found = file.indices.get(number)
        if found is None:
            found = file.indices[number] = _Index(file.content, block)
        return found


class _Folder:
    """The data files of a round in a folder; see :class:`FarRound`.

    Args:
        folder (str): The folder.
        blocks (dict): The blocks of each file.
    """

    def __init__(self, folder: str, blocks: dict[str, list[dict]]) -> None:
        self.folder, self._blocks = folder, blocks
        self.sizes = _sizes(folder)
        self._identity = _identity(folder)

    def open(self, name: str) -> BinaryIO:
        """Open a file, unless the folder is that of another round by now."""
        if _identity(self.folder) != self._identity:
            raise FileNotFoundError('it is another round')
        return open(fileio.join_path(self.folder, name), 'rb')

    def fetch(self, verify: bool = False) -> None:
        """Check every SHA-256, if asked to."""
        for name, blocks in self._blocks.items() if verify else ():
            with self.open(name) as file, _mapped(file) as content:
                check_hashes(self.folder, name, content, blocks)


class _File:
    """A mapped file, and the indices of its blocks that were read.

    Args:
        place (_Folder or FarRound): The round's files.
        name (str): The file.

    Raises:
        MissingFileError: If the round is not there any more.
    """

    def __init__(self, place: _Folder | FarRound, name: str) -> None:
        try:
            file = place.open(name)
        except FileNotFoundError as error:
            raise MissingFileError(
                f'{place.folder} was pruned, moved or replaced after it was '
                f'opened ({error}), and {name} had not been read: open the '
                'round again') from error
        with file:
            self.content = _mapped(file)
        self.indices: dict[int, _Index] = {}


class _Index:
    """Where a block has what, as views of its file.

    Args:
        content (mmap): The file.
        block (dict): The block's entry in the manifest.
    """

    def __init__(self, content: mmap.mmap, block: dict[str, Any]) -> None:
        count = block['images']
        start = block['start'] + block['index']
        self.starts = np.frombuffer(content, '<i8', count, start)
        self.sizes = np.frombuffer(content, '<i4', 3 * count,
                                   start + 8 * count).reshape(-1, 3)
        self.keys = np.frombuffer(content, f'S{block["key_width"]}', count,
                                  start + _PER_IMAGE * count)


def _checked(block: Any) -> dict[str, Any]:
    """Refuse an entry of a manifest that would lead outside of its block."""
    images, index, width, size, start = (
        block[name] for name in ('images', 'index', 'key_width', 'bytes',
                                 'start'))
    numbers = images, index, width, size, start
    end = index + images * (_PER_IMAGE + width)
    if (not all(type(number) is int and number >= 0 for number in numbers)
            or not images or not width or not end <= size < end + _ALIGNED
            or size % _ALIGNED or start % _ALIGNED or index % _ALIGNED
            or not re.fullmatch(_NAME, block['file'])
            or not isinstance(block['sha256'], str)):
        raise ValueError(f'no block: {block}')
    return block


def _file_sizes(blocks: Sequence[Any]) -> dict[str, int]:
    """Bytes of each file, which ends with its last block."""
    sizes: dict[str, int] = {}
    for block in blocks:
        sizes[block['file']] = max(sizes.get(block['file'], 0),
                                   block['start'] + block['bytes'])
    return sizes


def _identity(folder: str) -> tuple[int, int]:
    """What a folder of the same name that replaces it does not share."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _sizes(folder: str) -> dict[str, int]:
    """Bytes of each file of a folder, or object below a URL, by name."""
    if is_far(folder):
        return FarFolder(folder).sizes()
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries
                if entry.is_file()}


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
