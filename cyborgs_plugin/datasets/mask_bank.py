"""MaskBank: the label maps of one mask round, memory-mapped and read-only.

The only file that knows how label maps are stored; see docs/mask_bank.md.
"""
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from logging import WARNING
from typing import Any

import numpy as np
from mmengine import fileio
from mmengine.logging import print_log

from ..commands import command
from ..errors import MissingFileError, UserError
from ..files import sha256 as file_sha256
from ..files import sync

Path = str | os.PathLike[str]
FORMAT_VERSION = 1
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
        num_clusterings (int): Label maps per image.
        hash (str): SHA-256 of the manifest, which contains those of the
            arrays.
        manifest (dict): See docs/mask_bank.md.
    """

    def __init__(self, path: Path, verify: bool = False) -> None:
        self.path = _local(path)
        content = fileio.get(_manifest_path(self.path))
        self.hash = hashlib.sha256(content).hexdigest()
        try:
            self.manifest: dict[str, Any] = json.loads(content)
            version = self.manifest['format_version']
            self.round: int = self.manifest['round']
            self.num_clusterings = int(self.manifest['num_clusterings'])
            files = [self.manifest['files'][f'{name}.npy'] for name in _ARRAYS]
            expected = [(file['bytes'], file['sha256']) for file in files]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._altered('manifest.json', 'JSON of a mask round',
                                repr(error)) from error
        if version != FORMAT_VERSION:
            raise UserError(
                f'{self.path} has mask bank format {version!r}, but this '
                f'cyborgs_plugin reads format {FORMAT_VERSION}: use the '
                'version that wrote it, or make the round again by '
                + command('generate_masks', 'CONFIG', 'CHECKPOINT'))
        labels, offsets, sizes, keys = (
            self._load(f'{name}.npy', size, sha256 if verify else None)
            for name, (size, sha256) in zip(_ARRAYS, expected, strict=True))
        found = [(array.dtype.str, array.shape)
                 for array in (labels, offsets, sizes, keys)]
        num = keys.size
        if (found[0][0] not in ('|u1', '<u2') or keys.dtype.kind != 'S'
                or found[1:3] != [('<i8', (num + 1, )), ('<i4', (num, 2))]
                or offsets[-1] != labels.size):
            raise self._altered('*.npy', 'arrays that fit each other', found)
        self._labels, self._offsets = labels, offsets
        self._sizes, self._keys = sizes, keys

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> 'MaskBank':
        """Open a round's folder, or the newest round in a bank's root."""
        path = _local(path)
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
        return [_decode(key) for key in self._keys[::step].tolist()]

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
        start, stop = self._offsets[row:row + 2].tolist()
        height, width = self._sizes[row].tolist()
        if height * width * self.num_clusterings != stop - start:
            raise self._altered(
                'offsets.npy or sizes.npy', f'{self.num_clusterings} x '
                f'{height} x {width} labels of {key!r}', stop - start)
        return self._labels[start:stop].reshape(-1, height, width)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self.row(key) >= 0

    def __reduce__(self) -> tuple:
        return MaskBank.open, (self.path, )

    def row(self, key: str) -> int:
        """Index of a key in the order of :meth:`keys`, -1 if absent."""
        wanted = _encode(key)
        # Truncated to the array's width; otherwise numpy would widen a copy of
        # all keys.
        row = int(self._keys.searchsorted(np.array(wanted, self._keys.dtype)))
        return row if row < len(self) and self._keys[row] == wanted else -1

    def _nearest(self, key: str) -> str:
        """A key with the same file name, else the next one in the order."""
        wanted = _encode(key)
        same = np.flatnonzero(
            np.char.endswith(self._keys, wanted.split(b'/')[-1]))
        row = same[0] if same.size else self._keys.searchsorted(wanted)
        return _decode(self._keys[min(row, len(self) - 1)])

    def _load(self, name: str, size: int, sha256: str | None) -> np.ndarray:
        file = fileio.join_path(self.path, name)
        found = os.path.getsize(file) if os.path.isfile(file) else 'no file'
        if found != size:
            raise self._altered(name, f'{size} bytes', found)
        if sha256 is not None and (digest := file_sha256(file)) != sha256:
            raise self._altered(name, f'SHA-256 {sha256}', digest)
        try:
            array = np.load(file, mmap_mode='r', allow_pickle=False)
        except ValueError as error:
            raise self._altered(name, 'a numpy array', error) from error
        return array.view(np.ndarray)  # As np.memmap, slicing is 3x slower.

    def _altered(self, name: str, expected: str, found: object) -> ValueError:
        return ValueError(
            f'{self.path}: {name} is altered or damaged: expected {expected}, '
            f'found {found}. Make the round again from a checkpoint that goes '
            'on with it: ' + command('generate_masks', 'CONFIG', 'CHECKPOINT',
                                     '--again'))


class MaskBankWriter:
    """Write one rank's label maps of a round, invisible to readers.

    Before the ranks write, rank 0 calls :func:`clear_leftovers` while all
    wait. When all have closed, rank 0 calls :func:`publish_round`.

    Args:
        root (str): The bank's root, on a file system that all nodes share.
        number (int): The new round.
        rank (int): Rank of this process. Defaults to 0.
    """

    def __init__(self, root: Path, number: int, rank: int = 0) -> None:
        self._folder, self._rank = _beside(root, number, 'partial'), rank
        self._shard = fileio.join_path(self._folder, f'rank_{rank:05d}')
        self._records: list[tuple] = []
        if os.path.exists(f'{self._shard}.labels'):
            raise FileExistsError(
                f'{self._shard}.labels is of another attempt: rank 0 must '
                'call clear_leftovers(root) before any rank writes')
        with _explained(self._folder):
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
        label_map = np.asarray(label_map)
        if (label_map.ndim not in (2, 3) or not label_map.size
                or not np.issubdtype(label_map.dtype, np.integer)
                or label_map.min() < 0 or label_map.max() > 65535):
            span = (f' from {label_map.min()} to {label_map.max()}'
                    if label_map.size else '')
            raise UserError(
                f'The label map of {key!r} must be (h, w) or (V, h, w) '
                f'integers in 0..65535, found {label_map.shape} '
                f'{label_map.dtype}{span}')
        if not key or '\0' in key:
            raise UserError('A key must be a path relative to data_root, '
                            f'without NUL; found {key!r}')
        dtype = np.dtype('u1' if label_map.max() < 256 else '<u2')
        shape = (1, *label_map.shape)[-3:]
        self._records.append((index, _encode(key), *shape, dtype.itemsize,
                              self._rank, self._labels.tell()))
        with _explained(self._folder):
            try:
                self._labels.write(label_map.astype(dtype).tobytes())
            except OSError:
                # Whoever holds the error holds the file, too, and while it
                # is open, deleting it gives a full disk no room back.
                with suppress(OSError):
                    self._labels.close()
                raise

    def close(self) -> None:
        """Write the shard to disk; its index comes last."""
        width = max((len(record[1]) for record in self._records), default=1)
        with _explained(self._folder):
            with self._labels:
                self._labels.flush()
                os.fsync(self._labels.fileno())
            np.save(f'{self._shard}.npy',
                    np.array(self._records, _record_dtype(width)))
            sync(f'{self._shard}.npy')


def give_up_round(root: Path, number: int) -> None:
    """Tell the other ranks that this one cannot write its part of a round."""
    with suppress(OSError):  # The disk may have failed: they notice later.
        os.makedirs(_beside(root, number, 'partial'), exist_ok=True)
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
    root, final = _local(root), round_path(root, number)
    partial, merged, replaced = (_beside(root, number, kind) for kind in
                                 ('partial', 'merged', 'replaced'))
    manifest = dict(format_version=FORMAT_VERSION, round=number,
                    num_images=num_images, num_clusterings=1, files={})
    if taken := manifest.keys() & meta.keys():
        raise UserError(f'meta must not set {sorted(taken)}: publish_round '
                        'writes them to the manifest itself')
    json.dumps(meta, sort_keys=True)  # Fails before the work, not after it.
    with _explained(root):
        records = _read_records(partial, num_images)
        if os.path.exists(merged):
            _remove(merged)
        files = _merge(partial, merged, records)
        manifest.update(meta, files=files,
                        num_clusterings=int(records['clusterings'][0]))
        fileio.put_text(json.dumps(manifest, indent=2, sort_keys=True) + '\n',
                        _manifest_path(merged))
        for name in (*os.listdir(merged), ''):
            sync(fileio.join_path(merged, name))
        MaskBank(merged, verify=True)
        if os.path.exists(final):
            os.rename(final, replaced)
        os.rename(merged, final)
        sync(root)
        for folder in filter(os.path.exists, (replaced, partial)):
            _discard(folder)
    return MaskBank(final)


def round_path(root: Path, number: int) -> str:
    """Folder of a published round."""
    if number < 0:
        raise UserError(f'Mask rounds count from 0, found {number}')
    return fileio.join_path(_local(root), f'round_{number:04d}')


def list_rounds(root: Path) -> list[int]:
    """Numbers of the published rounds, sorted; empty if there is no root."""
    root = _local(root)
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
    with _explained(_local(root)):
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
    root = _local(root)
    folder = fileio.join_path(root, time.strftime('earlier_%Y%m%d_%H%M%S'))
    with _explained(root):
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
    root = _local(root)
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
    root = _local(root)
    with _explained(root):
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
        raise UserError(
            f'Images {pair["index"].tolist()} have the same key '
            f'{_decode(pair["key"][0])!r} ({same.sum()} such): a key is the '
            'path relative to data_root, or to the image folder where that is '
            'absolute. List each image once, and give data sets that are '
            "joined a common data_root, with data_prefix.img_path='a/' of one "
            "and 'b/' of the other")
    numbers = np.unique(records['clusterings']).tolist()
    if len(numbers) > 1:
        raise UserError('All images of a round must have the same number of '
                        f'clusterings, found {numbers}')
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


@contextmanager
def _explained(folder: str) -> Iterator[None]:
    """Add to an operating system's error the folder and the free space."""
    try:
        yield
    except OSError as error:
        parent = os.path.abspath(folder)
        while not os.path.exists(parent):
            parent = os.path.dirname(parent)
        raise OSError(
            error.errno, f'Writing masks to {folder} failed ({error}); its '
            f'disk has {shutil.disk_usage(parent).free} bytes free. Published '
            'rounds are untouched: make room, or the folder writable, and '
            'resume') from error


def _beside(root: Path, number: int, kind: str) -> str:
    """Folder of an unfinished round; readers ignore names with a dot."""
    return fileio.join_path(_local(root), f'.round_{number:04d}.{kind}')


def _gave_up(root: Path, number: int) -> str:
    return fileio.join_path(_beside(root, number, 'partial'), 'gave_up')


def _manifest_path(folder: str) -> str:
    return fileio.join_path(folder, 'manifest.json')


def _encode(key: str) -> bytes:
    return key.encode('utf-8', 'surrogateescape')


def _decode(key: bytes) -> str:
    return key.decode('utf-8', 'surrogateescape')


def _local(path: Path) -> str:
    path = os.fspath(path)
    if '://' in path:
        raise UserError(
            'The arrays of a mask bank are memory-mapped, so it must lie on a '
            f'local or mounted file system; found {path!r}. Give a local path '
            '(or work_dir), or copy the round there first')
    return path
