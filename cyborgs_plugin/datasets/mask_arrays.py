"""Format 1 of a mask bank: four arrays that rank 0 merges from all shards.

See docs/mask_bank.md.
"""
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from mmengine import fileio

from ..errors import UserError
from ..files import sha256 as file_sha256
from ..files import sync
from .keys import decode, encode
from .mask_files import (
    Path,
    altered,
    beside,
    different_clusterings,
    explained,
    same_key,
    stored_map,
)

_ARRAYS = ('labels', 'offsets', 'sizes', 'keys')


class Arrays:
    """The data of a round of format 1: four arrays that hold all images.

    Args:
        folder (str): The round's folder.
        manifest (dict): Its manifest.
    """

    def __init__(self, folder: str, manifest: dict[str, Any]) -> None:
        self._folder = folder
        self._num_clusterings = int(manifest['num_clusterings'])
        files = [manifest['files'][f'{name}.npy'] for name in _ARRAYS]
        self._expected = [(int(file['bytes']), file['sha256'])
                          for file in files]

    def open(self, verify: bool) -> None:
        """Map the arrays, and check that they fit each other."""
        labels, offsets, sizes, keys = (
            self._load(f'{name}.npy', size, sha256 if verify else None)
            for name, (size, sha256) in zip(_ARRAYS, self._expected,
                                            strict=True))
        found = [(array.dtype.str, array.shape)
                 for array in (labels, offsets, sizes, keys)]
        num = keys.size
        if (found[0][0] not in ('|u1', '<u2') or keys.dtype.kind != 'S'
                or found[1:3] != [('<i8', (num + 1, )), ('<i4', (num, 2))]
                or offsets[-1] != labels.size):
            raise altered(self._folder, '*.npy',
                          'arrays that fit each other', found)
        self._labels, self._offsets = labels, offsets
        self._sizes, self._keys = sizes, keys

    @property
    def num_bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(size for size, _ in self._expected)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, wanted: bytes) -> int:
        """The row of a key; -1 if absent."""
        # Truncated to the array's width; otherwise numpy would widen a copy of
        # all keys.
        row = int(self._keys.searchsorted(np.array(wanted, self._keys.dtype)))
        return row if row < len(self) and self._keys[row] == wanted else -1

    def key(self, row: int) -> bytes:
        """The key of a row."""
        return bytes(self._keys[row])

    def sorted_keys(self) -> np.ndarray:
        """All keys, (n, ) 'S', sorted."""
        return self._keys

    def maps(self, row: int) -> np.ndarray:
        """The label maps (V, h, w) of a row."""
        start, stop = self._offsets[row:row + 2].tolist()
        height, width = self._sizes[row].tolist()
        if height * width * self._num_clusterings != stop - start:
            raise altered(
                self._folder, 'offsets.npy or sizes.npy',
                f'{self._num_clusterings} x {height} x {width} labels of '
                f'{decode(self.key(row))!r}', stop - start)
        return self._labels[start:stop].reshape(-1, height, width)

    def _load(self, name: str, size: int, sha256: str | None) -> np.ndarray:
        file = fileio.join_path(self._folder, name)
        found = os.path.getsize(file) if os.path.isfile(file) else 'no file'
        if found != size:
            raise altered(self._folder, name, f'{size} bytes', found)
        if sha256 is not None and (digest := file_sha256(file)) != sha256:
            raise altered(self._folder, name, f'SHA-256 {sha256}', digest)
        try:
            array = np.load(file, mmap_mode='r', allow_pickle=False)
        except ValueError as error:
            raise altered(self._folder, name, 'a numpy array',
                          error) from error
        return array.view(np.ndarray)  # As np.memmap, slicing is 3x slower.


class MaskBankWriter:
    """Write one rank's label maps of a round of format 1, unseen by readers.

    Before the ranks write, rank 0 calls :func:`clear_leftovers` while all
    wait. When all have closed, rank 0 calls :func:`publish_round`.

    Args:
        root (str): The bank's root, on a file system that all nodes share.
        number (int): The new round.
        rank (int): Rank of this process. Defaults to 0.
    """

    def __init__(self, root: Path, number: int, rank: int = 0) -> None:
        self._folder, self._rank = beside(root, number, 'partial'), rank
        self._shard = fileio.join_path(self._folder, f'rank_{rank:05d}')
        self._records: list[tuple] = []
        if os.path.exists(f'{self._shard}.labels'):
            raise FileExistsError(
                f'{self._shard}.labels is of another attempt: rank 0 must '
                'call clear_leftovers(root) before any rank writes')
        with explained(self._folder):
            os.makedirs(self._folder, exist_ok=True)
            self._labels = open(f'{self._shard}.labels', 'xb')

    def add(self, index: int, key: str, label_map: np.ndarray) -> None:
        """Append one image's label map.

        Args:
            index (int): Index of the image in the order of all images.
            key (str): Its path relative to ``data_root``, with '/'.
            label_map (np.ndarray): (h, w) integers in 0..65535, or (V, h, w)
                if each image of the round has V clusterings.
        """
        stored = stored_map(key, label_map)
        self._records.append((index, encode(key), *stored.shape,
                              stored.dtype.itemsize, self._rank,
                              self._labels.tell()))
        with explained(self._folder):
            try:
                self._labels.write(stored.tobytes())
            except OSError:
                # Whoever holds the error holds the file, too, and while it
                # is open, deleting it gives a full disk no room back.
                with suppress(OSError):
                    self._labels.close()
                raise

    def close(self) -> None:
        """Write the shard to disk; its index comes last."""
        width = max((len(record[1]) for record in self._records), default=1)
        with explained(self._folder):
            with self._labels:
                self._labels.flush()
                os.fsync(self._labels.fileno())
            np.save(f'{self._shard}.npy',
                    np.array(self._records, _record_dtype(width)))
            sync(f'{self._shard}.npy')


def _record_dtype(key_width: int) -> np.dtype:
    """A map in a rank's shard; ``start`` counts bytes."""
    return np.dtype([('index', '<i8'), ('key', f'S{key_width}'),
                     ('clusterings', '<i4'), ('height', '<i4'),
                     ('width', '<i4'), ('itemsize', '<i4'), ('rank', '<i4'),
                     ('start', '<i8')])


def read_records(folder: str, num_images: int) -> np.ndarray:
    """Read the index of all shards, which must hold each image once.

    Returns:
        np.ndarray: (num_images,) of :func:`_record_dtype`, sorted by key.
    """
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    names = [name for name in names if name.endswith('.npy')]
    records = np.concatenate([np.zeros(0, _record_dtype(1)), *(
        np.load(fileio.join_path(folder, name), allow_pickle=False)
        for name in names)])
    index = records['index']
    outside = index[(index < 0) | (index >= num_images)].tolist()
    if num_images < 1 or outside:
        raise UserError('Every index must be in 0..num_images - 1; found '
                        f'num_images={num_images}, indices {outside[:9]}')
    counts = np.bincount(index, minlength=num_images)
    if missing := np.flatnonzero(counts == 0).tolist():
        raise RuntimeError(
            f'{folder} lacks {len(missing)} of {num_images} label maps '
            f'(first: index {missing[0]}); it has finished shards of ranks '
            f'{[int(name[5:-4]) for name in names]}. If ranks are missing, '
            'work_dir is likely not on a file system shared by all nodes; '
            'else a rank wrote fewer images than its part')
    if repeated := np.flatnonzero(counts > 1).tolist():
        raise UserError(
            f'{folder} has {len(repeated)} images more than once (first: index'
            f' {repeated[0]}): the sampler must not pad (round_up=False)')
    records = records[records['key'].argsort(kind='stable')]
    same = records['key'][1:] == records['key'][:-1]
    if same.any():
        pair = records[same.argmax():][:2]
        raise same_key(pair['index'].tolist(), pair['key'][0],
                       int(same.sum()))
    numbers = np.unique(records['clusterings']).tolist()
    if len(numbers) > 1:
        raise different_clusterings(numbers)
    return records


def merge(partial: str, merged: str,
           records: np.ndarray) -> dict[str, dict[str, Any]]:
    """Write the arrays of a round; returns bytes and SHA-256 of each file."""
    dtype = np.dtype('u1' if records['itemsize'].max() == 1 else '<u2')
    sizes = np.stack([records['height'], records['width']], axis=1)
    lengths = sizes.prod(axis=1, dtype='<i8') * records['clusterings']
    offsets = np.concatenate([[0], lengths.cumsum()]).astype('<i8')
    paths = [fileio.join_path(merged, f'{name}.npy') for name in _ARRAYS]
    os.makedirs(merged)
    with open(paths[0], 'wb') as file:
        np.lib.format.write_array_header_1_0(file, dict(
            descr=dtype.str, fortran_order=False, shape=(int(offsets[-1]), )))
        file.writelines(_read_labels(partial, records, dtype))
    arrays = offsets, sizes, np.ascontiguousarray(records['key'])
    for path, array in zip(paths[1:], arrays, strict=True):
        np.save(path, array)
    return {
        os.path.basename(path): dict(
            bytes=os.path.getsize(path), sha256=file_sha256(path))
        for path in paths
    }


def _read_labels(folder: str, records: np.ndarray,
                 dtype: np.dtype) -> Iterator[bytes]:
    """Yield the labels of each record, one map in memory at a time."""
    with ExitStack() as stack:
        files = {rank: stack.enter_context(open(
            fileio.join_path(folder, f'rank_{rank:05d}.labels'), 'rb'))
            for rank in np.unique(records['rank']).tolist()}
        for record in records:
            shape = [int(record[name]) for name in (
                'clusterings', 'height', 'width', 'itemsize')]
            file = files[record['rank']]
            file.seek(record['start'])
            labels = np.frombuffer(file.read(math.prod(shape)),
                                   f'<u{shape[-1]}')
            yield labels.astype(dtype).tobytes()
