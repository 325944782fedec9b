"""MaskBank: the label maps of one mask round, memory-mapped and read-only.

Here are the bank, the folders of its rounds, and format 1; mask_blocks.py is
format 2. Only these know how label maps are stored; see docs/mask_bank.md.
"""
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from logging import WARNING
from typing import Any

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from ..commands import command
from ..errors import MissingFileError, UserError
from ..files import sha256 as file_sha256
from ..files import sync
from .mask_blocks import Block, Blocks, Layout, check_blocks, contents
from .mask_files import (
    Path,
    altered,
    beside,
    decode,
    different_clusterings,
    encode,
    explained,
    local,
    same_key,
    stored_map,
)

FORMATS = 1, 2
"""Format versions that can be read and written; see docs/mask_bank.md."""
_ARRAYS = ('labels', 'offsets', 'sizes', 'keys')


class MaskBank:
    """The label maps of one published round.

    A pickled bank contains only its path: workers and ranks map the same
    files.

    Args:
        path (str): Folder of a round, ``.../masks/round_0003``.
        verify (bool): Whether to check every SHA-256, which reads all bytes,
            in addition to sizes and shapes. Defaults to False.

    Attributes:
        path (str): The round's folder.
        round (int): The round's number.
        format_version (int): How it is stored, one of :data:`FORMATS`.
        num_clusterings (int): Label maps per image.
        hash (str): SHA-256 of the round: of the manifest, which contains those
            of the data. In format 2 it does not depend on how the data are
            divided into files.
        manifest (dict): See docs/mask_bank.md.
    """

    def __init__(self, path: Path, verify: bool = False) -> None:
        self.path = local(path)
        content = fileio.get(_manifest_path(self.path))
        try:
            self.manifest: dict[str, Any] = json.loads(content)
            version = self.manifest['format_version']
            self.round: int = self.manifest['round']
            self.num_clusterings = int(self.manifest['num_clusterings'])
            kind = _Arrays if version == 1 else Blocks
            if version in FORMATS:
                stored: _Arrays | Blocks = kind(self.path, self.manifest)
        except (ValueError, KeyError, TypeError, AttributeError,
                RecursionError) as error:
            raise altered(self.path, 'manifest.json', 'JSON of a mask round',
                          repr(error)) from error
        if version not in FORMATS:
            raise UserError(
                f'{self.path} has mask bank format {version!r}, but this '
                f'cyborgs_plugin reads formats {FORMATS}: use the '
                'version that wrote it, or make the round again by '
                + command('generate_masks', 'CONFIG', 'CHECKPOINT'))
        self.format_version: int = version
        self.hash = hashlib.sha256(
            content if version == 1 else contents(self.manifest)).hexdigest()
        stored.open(verify)
        self._stored = stored

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> 'MaskBank':
        """Open a round's folder, or the newest round in a bank's root."""
        path = local(path)
        if not os.path.isfile(_manifest_path(path)):
            rounds = list_rounds(path)
            if not rounds:
                found = ('no such folder' if not os.path.isdir(path) else
                         'it holds neither manifest.json, as a round does, '
                         'nor rounds (round_NNNN)')
                raise MissingFileError(
                    f'No masks at {path}: {found}. Make them by '
                    f'{command("generate_masks", "CONFIG", "CHECKPOINT")} '
                    '(or without CHECKPOINT), or train by '
                    f'{command("train", "CONFIG")}, which makes them at its '
                    'start')
            path = round_path(path, rounds[-1])
        return cls(path, verify)

    def keys(self, limit: int | None = None) -> list[str]:
        """Keys, sorted by their UTF-8 bytes.

        Args:
            limit (int, optional): Return at most this many, evenly spaced.
                Defaults to None, all.
        """
        step = -(-len(self) // limit) if limit else 1
        return [decode(key)
                for key in self._stored.sorted_keys()[::step].tolist()]

    def label_map(self, key: str, clustering: int = 0) -> np.ndarray:
        """Read one label map of an image.

        Args:
            key (str): The image's path relative to ``data_root``.
            clustering (int): Index among the image's ``num_clusterings`` maps.
                Defaults to 0.

        Returns:
            np.ndarray: (h, w) uint8 or uint16, a read-only view of the file;
            it covers the whole image.
        """
        if not 0 <= clustering < self.num_clusterings:
            raise IndexError(f'{self.path} holds {self.num_clusterings} '
                             f'clusterings of an image, no {clustering}')
        return self.label_maps(key)[clustering]

    def label_maps(self, key: str) -> np.ndarray:
        """Read all label maps of an image, (V, h, w); see above."""
        row = self.row(key)
        if row < 0:
            raise KeyError(
                f'No label map for {key!r} in {self.path} with its '
                f'{len(self)} keys; the nearest is {self._nearest(key)!r}')
        return self._stored.maps(row)

    @property
    def num_bytes(self) -> int:
        """Bytes of all label maps and their index on the disk."""
        return self._stored.num_bytes

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key: str) -> bool:
        return self.row(key) >= 0

    def __reduce__(self) -> tuple:
        return MaskBank.open, (self.path, )

    def row(self, key: str) -> int:
        """Place of an image in the round, in 0..len - 1; -1 if absent.

        It is the same for any number of ranks. In format 1 the order is that
        of :meth:`keys`.
        """
        return self._stored.find(encode(key))

    def rows(self) -> np.ndarray:
        """The place of each of :meth:`keys`, (n, ) int64; see :meth:`row`."""
        return self._stored.sorted_rows()

    def key_of(self, row: int) -> str:
        """The key of the image at a place, as :meth:`row` gives it."""
        return decode(self._stored.key(row))

    def _nearest(self, key: str) -> str:
        """A key with the same file name, else the next one in the order."""
        wanted, keys = encode(key), self._stored.sorted_keys()
        same = np.flatnonzero(
            np.char.endswith(keys, wanted.split(b'/')[-1]))
        row = same[0] if same.size else keys.searchsorted(wanted)
        return decode(keys[min(row, len(self) - 1)])


class _Arrays:
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

    def sorted_rows(self) -> np.ndarray:
        """The row of each of these, (n, ) int64."""
        return np.arange(len(self))

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


def give_up_round(root: Path, number: int) -> None:
    """Tell the other ranks that this one cannot write its part of a round."""
    with suppress(OSError):  # The disk may have failed: they notice later.
        os.makedirs(beside(root, number, 'partial'), exist_ok=True)
        with open(_gave_up(root, number), 'w'):
            pass


def is_given_up(root: Path, number: int) -> bool:
    """Whether a rank cannot write its part of an unfinished round."""
    return os.path.exists(_gave_up(root, number))


def publish_round(root: Path, number: int, num_images: int,
                  meta: dict[str, Any]) -> MaskBank:
    """Merge the ranks' shards and publish them as one round, by one rename.

    Call it on rank 0 only, when all writers have closed. An existing round of
    that number is renamed just before, since POSIX cannot swap folders. If the
    process dies between the two renames, :func:`clear_leftovers` restores it.

    Args:
        root (str): The bank's root.
        number (int): The new round.
        num_images (int): Each index in 0..num_images - 1 must have been added
            exactly once.
        meta (dict): JSON values for the manifest that describe where the masks
            come from. Values that differ from run to run make the hash differ.

    Returns:
        MaskBank: The published round.
    """
    root = local(root)
    round_path(root, number)  # refuses a wrong number
    partial, merged = (beside(root, number, kind)
                       for kind in ('partial', 'merged'))
    manifest = _manifest(meta, dict(
        format_version=1, round=number, num_images=num_images,
        num_clusterings=1, files={}))
    with explained(root):
        records = _read_records(partial, num_images)
        if os.path.exists(merged):
            _remove(merged)
        files = _merge(partial, merged, records)
        manifest.update(files=files,
                        num_clusterings=int(records['clusterings'][0]))
        _write_manifest(merged, manifest)
        for name in (*os.listdir(merged), ''):
            sync(fileio.join_path(merged, name))
        MaskBank(merged, verify=True)
        _put_in_place(root, number, merged)
        _discard(partial)
    return MaskBank(round_path(root, number))


def publish_blocks(root: Path, number: int, layout: Layout,
                   blocks: Iterable[Block], meta: dict[str, Any]) -> MaskBank:
    """Publish the ranks' files as they are, as one round of format 2.

    Nothing is copied or read again: a manifest that lists the blocks is added,
    and the folder renamed. For when to call it, and for an existing round of
    that number, see :func:`publish_round`.

    Args:
        root (str): The bank's root.
        number (int): The new round.
        layout (Layout): How the images are dealt to blocks.
        blocks (Iterable[Block]): What ``BlockWriter.close`` returned on all
            ranks, in any order.
        meta (dict): As in :func:`publish_round`.

    Returns:
        MaskBank: The published round.
    """
    root = local(root)
    round_path(root, number)  # refuses a wrong number
    partial = beside(root, number, 'partial')
    manifest = _manifest(meta, dict(
        format_version=2, round=number, num_images=layout['num_images'],
        num_clusterings=1, itemsize=1, salt=layout['salt'],
        parts=layout['parts'], blocks_per_part=layout['blocks_per_part'],
        blocks=[]))
    with explained(root):
        manifest.update(check_blocks(partial, layout, blocks))
        _write_manifest(partial, manifest)
        for name in ('manifest.json', ''):
            sync(fileio.join_path(partial, name))
        MaskBank(partial)
        _put_in_place(root, number, partial)
    return MaskBank(round_path(root, number))


def _manifest(meta: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Join both parts of a manifest; fails before the work, not after it."""
    if taken := own.keys() & meta.keys():
        raise UserError(f'meta must not set {sorted(taken)}: they are written '
                        'to the manifest when the round is published')
    json.dumps(meta, sort_keys=True)
    return own | meta


def _write_manifest(folder: str, manifest: dict[str, Any]) -> None:
    fileio.put_text(json.dumps(manifest, indent=2, sort_keys=True) + '\n',
                    _manifest_path(folder))


def _put_in_place(root: str, number: int, folder: str) -> None:
    """Give a complete, synced folder the name of its round."""
    final, replaced = round_path(root, number), beside(root, number,
                                                       'replaced')
    if os.path.exists(final):
        os.rename(final, replaced)
    os.rename(folder, final)
    sync(root)
    if os.path.exists(replaced):
        _discard(replaced)


def round_path(root: Path, number: int) -> str:
    """Folder of a published round."""
    if number < 0:
        raise UserError(f'Mask rounds count from 0, found {number}')
    return fileio.join_path(local(root), f'round_{number:04d}')


def list_rounds(root: Path) -> list[int]:
    """Numbers of the published rounds, sorted; empty if there is no root."""
    root = local(root)
    names = os.listdir(root) if os.path.isdir(root) else []
    rounds = (int(name[6:]) for name in names
              if re.fullmatch(r'round_(\d{4}|[1-9]\d{4,})', name))
    return sorted(number for number in rounds if os.path.isfile(
        _manifest_path(round_path(root, number))))


def prune_rounds(root: Path, max_keep: int,
                 keep: Iterable[int] = ()) -> list[int]:
    """Delete the oldest rounds; open banks can still read theirs.

    Args:
        root (str): The bank's root.
        max_keep (int): Number of newest rounds to keep; <= 0 keeps all.
        keep (Iterable[int]): Rounds that are never deleted: the current one,
            and any that a checkpoint refers to. Defaults to ().

    Returns:
        list[int]: The deleted rounds.
    """
    kept = set(keep)
    doomed = [number for number in list_rounds(root)[:-max_keep]
              if number not in kept] if max_keep > 0 else []
    with explained(local(root)):
        for number in doomed:
            _discard(round_path(root, number))
    return doomed


def set_aside(root: Path, keep: Iterable[int] = ()) -> str | None:
    """Move rounds to a folder ``earlier_<time>`` of the root; none is lost.

    Call it on rank 0 only. The oldest round is moved first. If the process
    dies in between, each round is complete in one of the two places, and the
    newest, from which a checkpoint resumes, stays in its own place as long as
    possible.

    Args:
        root (str): The bank's root.
        keep (Iterable[int]): Rounds that stay. Defaults to ().

    Returns:
        str, optional: The folder; None if there was nothing to move.
    """
    kept = set(keep)
    moved = [number for number in list_rounds(root) if number not in kept]
    if not moved:
        return None
    root = local(root)
    folder = fileio.join_path(root, time.strftime('earlier_%Y%m%d_%H%M%S'))
    with explained(root):
        while os.path.exists(folder):
            folder += '~'
        os.makedirs(folder)
        for number in moved:
            _move(round_path(root, number), round_path(folder, number))
        for changed in (folder, root):
            sync(changed)
    return folder


def find_aside(root: Path, number: int, hash: str) -> str | None:
    """Folder to which :func:`set_aside` moved a round; None if it did not."""
    root = local(root)
    for name in sorted(os.listdir(root) if os.path.isdir(root) else []):
        folder = fileio.join_path(root, name)
        if name.startswith('earlier_') and number in list_rounds(folder):
            with suppress(ValueError):  # a damaged one
                if MaskBank(round_path(folder, number)).hash == hash:
                    return folder
    return None


def clear_leftovers(root: Path) -> None:
    """Remove what a killed run left unfinished; published rounds stay.

    A round that was renamed but not yet replaced gets its name back. Call it
    on rank 0 only, before a new attempt, while the other ranks wait.
    """
    root = local(root)
    with explained(root):
        for name in os.listdir(root) if os.path.isdir(root) else []:
            match = re.fullmatch(r'\.(?:(round_\d{4,})\.(partial|merged|'
                                 r'replaced)|round_trash-.*)', name)
            if match is None:
                continue
            folder = fileio.join_path(root, name)
            published = fileio.join_path(root, match[1] or '')
            if match[2] != 'replaced':
                _remove(folder)
            elif os.path.exists(published):
                _discard(folder)
            else:
                os.rename(folder, published)
            print_log(f'A mask update was cut short: cleared {folder}',
                      logger='current')


def _record_dtype(key_width: int) -> np.dtype:
    """A map in a rank's shard; ``start`` counts bytes."""
    return np.dtype([('index', '<i8'), ('key', f'S{key_width}'),
                     ('clusterings', '<i4'), ('height', '<i4'),
                     ('width', '<i4'), ('itemsize', '<i4'), ('rank', '<i4'),
                     ('start', '<i8')])


def _read_records(folder: str, num_images: int) -> np.ndarray:
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


def _merge(partial: str, merged: str,
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


def _discard(folder: str) -> None:
    """Delete a folder; it never appears half deleted under its name."""
    root, name = os.path.split(folder)
    trash = fileio.join_path(root, f'.round_trash-{name}')
    while os.path.exists(trash):
        trash += '~'
    os.rename(folder, trash)
    sync(root)
    _remove(trash)


def _move(folder: str, target: str) -> None:
    """Rename a round into a neighbouring folder, even if it is a link."""
    if os.path.islink(folder) and not os.path.isabs(
            link := os.readlink(folder)):
        os.symlink(fileio.join_path(os.pardir, link), target)
        os.unlink(folder)
    else:
        os.rename(folder, target)


def _remove(folder: str) -> None:
    try:
        if os.path.islink(folder):  # what it leads to is not ours
            os.unlink(folder)
        else:
            shutil.rmtree(folder)
    except OSError as error:  # As on NFS while another process reads it.
        print_log(f'{folder} cannot be removed now ({error}); the next mask '
                  'update tries again', logger='current', level=WARNING)


def _gave_up(root: Path, number: int) -> str:
    return fileio.join_path(beside(root, number, 'partial'), 'gave_up')


def _manifest_path(folder: str) -> str:
    return fileio.join_path(folder, 'manifest.json')
