"""PhotoIndex: a memory-mapped table of photographs, in place of a listing.

The only file that knows how the table is stored; see docs/data.md.
"""
import hashlib
import json
import os
import os.path as osp
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..commands import command
from ..errors import MissingFileError, UserError
from ..files import sync
from .keys import decode, encode
from .shards import address

FORMAT_VERSION = 1
PHOTO = np.dtype([('height', '<i4'), ('width', '<i4'), ('shard', '<i4'),
                  ('start', '<i8'), ('length', '<i8')])
"""A photograph: its size in pixels, 0 where unknown; the tar file that it lies
in, -1 for a file of its own; its first byte there; its number of bytes."""
_MANIFEST = 'photo_index.json'
_ARRAYS = ('keys', 'offsets', 'photos')
_NAMED, _MOST_WORDS = 5, 10
_STEP = 1 << 20


class PhotoIndex:
    """The photographs that an index lists, in the order of their keys.

    A pickled index contains only its path and fingerprint: workers and ranks
    map the same files.

    Args:
        path (str): The folder that :func:`write_index` made.
        fingerprint (str, optional): What the index must have; another one was
            written since. Defaults to None, any.

    Attributes:
        path (str): As given.
        root (str): Folder, or URL, of the photographs or of the tar files.
        fingerprint (str): SHA-256 over all keys and numbers of bytes: the same
            for a folder and for tar files of the same photographs.
        shards (list[str]): The tar files, relative to ``root``.
        manifest (dict): See docs/data.md.

    Raises:
        UserError: If it is missing, truncated, or of another format.
    """

    def __init__(self, path: str, fingerprint: str | None = None) -> None:
        self.path = path
        self.manifest = _read_manifest(path)
        try:
            version = self.manifest['format_version']
            self.root: str = self.manifest['root']
            self.fingerprint: str = self.manifest['fingerprint']
            self.shards: list[str] = [
                name for name, *_ in self.manifest['shards']]
            expected = [int(self.manifest['bytes'][name]) for name in _ARRAYS]
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(_MANIFEST, 'JSON of an index',
                                repr(error)) from error
        if version != FORMAT_VERSION:
            raise UserError(
                f'{path} has index format {version!r}, but this '
                f'cyborgs_plugin reads format {FORMAT_VERSION}: use the '
                f'version that wrote it, or make it again by {self.again()}')
        if fingerprint not in (None, self.fingerprint):
            raise UserError(
                f'{path} was written again while a run was using it: start '
                'the run again, or keep the index of each run')
        self._keys, self._offsets, self._photos = (
            self._load(name, size)
            for name, size in zip(_ARRAYS, expected, strict=True))
        found = [(array.dtype, array.shape) for array in (
            self._keys, self._offsets, self._photos)]
        num = self._photos.size
        if found != [(np.dtype('u1'), (self._keys.size, )),
                     (np.dtype('<i8'), (num + 1, )), (PHOTO, (num, ))] or (
                         not num or self._offsets[-1] != self._keys.size):
            raise self._damaged('*.npy', 'arrays that fit each other', found)
        if '://' not in self.root and not osp.isdir(self.root):
            self.root = self._moved_root()

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of each photograph, (N, ) int64, in the order of the keys."""
        return self._photos['length']

    @property
    def sizes(self) -> np.ndarray:
        """Height and width of each, (N, 2) int32; (0, 0) where unknown."""
        return np.stack([self._photos['height'], self._photos['width']], 1)

    @property
    def shard_numbers(self) -> np.ndarray:
        """Place in ``shards`` of each one's tar file, (N, ) int32; or -1."""
        return self._photos['shard']

    def __len__(self) -> int:
        return len(self._photos)

    def __reduce__(self) -> tuple:
        return PhotoIndex, (self.path, self.fingerprint)

    def keys(self) -> 'Keys':
        """All keys, read one at a time."""
        return Keys(self)

    def key(self, row: int) -> str:
        """The key of a photograph: its path, relative to the root."""
        return decode(self._bytes(row))

    def photo(self, row: int) -> str:
        """What ``read_image`` reads a photograph by: a path, or an address."""
        _, _, shard, start, length = self._photos[row].tolist()
        key = self.key(row)
        if shard < 0:
            return osp.join(self.root, key)
        return address(
            osp.join(self.root, self.shards[shard]), key, start, length)

    def encoded(self, first: int, stop: int) -> list[bytes]:
        """The bytes of neighbouring keys."""
        ends = self._offsets[first:stop + 1]
        start = int(ends[0])
        joined = self._keys[start:int(ends[-1])].tobytes()
        places = (ends - start).tolist()
        return [joined[place:end]
                for place, end in zip(places, places[1:])]

    def row(self, key: str) -> int:
        """Place of a key in the order of the index, -1 if absent."""
        wanted = encode(key)
        row = self._first(wanted)
        return row if row < len(self) and self._bytes(row) == wanted else -1

    def holds_below(self, folder: str) -> bool:
        """Whether a photograph lies below a folder, relative to the root."""
        wanted = encode(f'{folder}/')
        row = self._first(wanted)
        return row < len(self) and self._bytes(row).startswith(wanted)

    def again(self) -> str:
        """The command that makes the index again."""
        made = self.manifest.get('made_by')
        words = made if isinstance(made, list) else ['PHOTOS']
        if len(words) > _MOST_WORDS:  # of thousands of tar files
            words = [words[0], '...', *words[1 - _MOST_WORDS:]]
        return command('index_photos', *map(str, words), '--out', self.path)

    def _first(self, wanted: bytes) -> int:
        """Place of the first key that is not below some bytes."""
        return bisect_left(range(len(self)), wanted, key=self._bytes)

    def _bytes(self, row: int) -> bytes:
        start, stop = self._offsets[row:row + 2].tolist()
        return self._keys[start:stop].tobytes()

    def _load(self, name: str, size: int) -> np.ndarray:
        file = osp.join(self.path, f'{name}.npy')
        found = osp.getsize(file) if osp.isfile(file) else 'no file'
        if found != size:
            raise self._damaged(f'{name}.npy', f'{size} bytes', found)
        try:
            array = np.load(file, mmap_mode='r', allow_pickle=False)
        except ValueError as error:
            raise self._damaged(f'{name}.npy', 'a numpy array',
                                error) from error
        return array.view(np.ndarray)  # As np.memmap, slicing is 3x slower.

    def _moved_root(self) -> str:
        """Where the photographs are if they were moved with the index."""
        beside = self.manifest.get('root_beside')
        moved = osp.normpath(osp.join(self.path, beside)) if beside else ''
        if moved and osp.isdir(moved):
            return moved
        raise MissingFileError(
            f'The index {self.path} lists photographs of {self.root}, which '
            'does not exist' + (f', and neither does {moved}' if moved else '')
            + ': move them back, or make the index again by '
            + command('index_photos', 'PHOTOS', '--out', self.path))

    def _damaged(self, name: str, expected: str, found: object) -> UserError:
        return UserError(
            f'{self.path}: {name} is truncated or altered: expected '
            f'{expected}, found {found}. Copy the index again, or make it '
            f'again by {self.again()}')


class Keys(Sequence[str]):
    """The keys of an index, read one at a time."""

    def __init__(self, index: PhotoIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, place: Any) -> Any:
        rows = range(len(self))[place]
        return self._index.key(rows) if isinstance(rows, int) else [
            self._index.key(row) for row in rows]

    def encoded(self, first: int, stop: int) -> list[bytes]:
        """The bytes of the keys from one place to another."""
        return self._index.encoded(first, stop)

    def indices(self, first: int, stop: int) -> np.ndarray:
        """The places themselves, (stop - first, ) int64."""
        return np.arange(first, stop)


class IndexedPhotos(Sequence):
    """Entries of a data set, read from an index one at a time.

    Args:
        index (PhotoIndex): The index.
        rows (range, optional): Its rows to use. Defaults to None, all.
    """

    def __init__(self, index: PhotoIndex, rows: range | None = None) -> None:
        self._index = index
        self._rows = range(len(index)) if rows is None else rows

    @property
    def shard_numbers(self) -> np.ndarray:
        """As of the index, for the rows to use."""
        rows = self._rows
        return self._index.shard_numbers[rows.start:rows.stop:rows.step]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        row = self._rows[place]
        if isinstance(row, range):
            return IndexedPhotos(self._index, row)
        return dict(img_path=self._index.photo(row), key=self._index.key(row))


def is_index(path: str) -> bool:
    """Whether a folder is an index."""
    return osp.isfile(osp.join(path, _MANIFEST))


def is_round_of(manifest: dict[str, Any], fingerprint: str | None) -> bool:
    """Whether a mask round was made of the photographs of a fingerprint.

    Args:
        manifest (dict): Manifest of the round.
        fingerprint (str, optional): Of an index; None is of no round.
    """
    return fingerprint is not None and (
        manifest.get('photographs') == fingerprint)


def write_index(path: str,
                root: str,
                keys: Sequence[bytes],
                photos: np.ndarray,
                shards: Iterable[Sequence[Any]] = (),
                folders: Iterable[Sequence[Any]] = (),
                made_by: Sequence[str] = ()) -> PhotoIndex:
    """Write an index, which appears when it is complete.

    Args:
        path (str): Folder to write; an earlier index in it is replaced.
        root (str): Folder, or URL, of the photographs or of the tar files.
        keys (Sequence[bytes]): Keys, in any order. If they are sorted, they
            are read in turn and not held.
        photos (np.ndarray): (N, ) of :data:`PHOTO`, in the order of the keys.
        shards (Iterable[Sequence]): Name relative to ``root``, number of bytes
            of each tar file. Defaults to ().
        folders (Iterable[Sequence]): Name relative to ``root``, time of the
            last change in ns and number of photographs of folders that a
            start looks at. Defaults to ().
        made_by (Sequence[str]): Arguments of ``tools/index_photos.py`` that
            make it again, without ``--out``. Defaults to ().

    Returns:
        PhotoIndex: The index.

    Raises:
        UserError: If there are no photographs, two have the same key, or the
            folder holds something else.
    """
    shards = [list(shard) for shard in shards]
    if not keys:
        raise UserError(f'{root} holds no photographs: nothing to index')
    path = path.rstrip('/')
    if osp.lexists(path) and not is_index(path):
        raise UserError(f'{path} exists and is no index: name another --out')
    folder = osp.dirname(osp.abspath(path))
    partial, replaced = (
        osp.join(folder, f'.{osp.basename(path)}.{kind}')
        for kind in ('partial', 'replaced'))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        os.makedirs(partial)
        arrays = _write_arrays(partial, keys, np.asarray(photos, PHOTO),
                               [name for name, *_ in shards])
        manifest = dict(
            format_version=FORMAT_VERSION,
            root=root,
            root_beside=None if '://' in root else osp.relpath(root, path),
            num_photographs=len(keys),
            fingerprint=_fingerprint(
                arrays['keys'], arrays['offsets'], arrays['photos']['length']),
            bytes={
                name: osp.getsize(osp.join(partial, f'{name}.npy'))
                for name in _ARRAYS
            },
            shards=shards,
            folders=[list(each) for each in folders],
            made_by=list(made_by))
        with open(osp.join(partial, _MANIFEST), 'w', encoding='utf-8') as file:
            json.dump(manifest, file, indent=1)
        for name in (*os.listdir(partial), ''):
            sync(osp.join(partial, name))
        shutil.rmtree(replaced, ignore_errors=True)
        if osp.exists(path):  # POSIX cannot swap folders
            os.rename(path, replaced)
        os.rename(partial, path)
        sync(folder)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return PhotoIndex(path)


def _write_arrays(folder: str, keys: Sequence[bytes], photos: np.ndarray,
                  shards: Sequence[str]) -> dict[str, np.ndarray]:
    """Write the arrays a piece at a time, sorted by key; they are mapped."""
    count = len(keys)
    order: Sequence[int] = range(count)
    if not all(first <= second for first, second in pairwise(keys)):
        order = sorted(order, key=keys.__getitem__)
    shapes = dict(keys=('u1', sum(map(len, keys))), offsets=('<i8', count + 1),
                  photos=(PHOTO, count))
    arrays: dict[str, np.ndarray] = {
        name: np.lib.format.open_memmap(
            osp.join(folder, f'{name}.npy'), 'w+', dtype, (length, ))
        for name, (dtype, length) in shapes.items()}
    end, last, twins = 0, b'', []
    for first in range(0, count, _STEP):
        rows = order[first:first + _STEP]
        names = [keys[row] for row in rows]
        stop = first + len(names)
        twins += [number for number, (key, before) in enumerate(
            zip(names, [last, *names]), first) if key == before and number]
        last = names[-1]
        ends = end + np.cumsum([len(name) for name in names])
        arrays['keys'][end:ends[-1]] = np.frombuffer(b''.join(names), 'u1')
        arrays['offsets'][first + 1:stop + 1] = ends
        arrays['photos'][first:stop] = photos[list(rows)]
        end = int(ends[-1])
    if twins:
        raise _same_keys([
            (keys[order[row]], [shards[number] for number in photos['shard'][
                [order[row - 1], order[row]]].tolist() if number >= 0])
            for row in twins[:_NAMED]], len(twins))
    return arrays


def _same_keys(examples: Sequence[tuple[bytes, Sequence[str]]],
               count: int) -> UserError:
    """Of keys that come twice, and the tar files that each lies in."""
    named = [
        f'{decode(key)!r}' + f' (in {" and ".join(places)})' * bool(places)
        for key, places in examples
    ]
    return UserError(
        f'{count} keys come more than once: {", ".join(named)}. Keys identify '
        'photographs in mask rounds: rename one of each, or, if they lie in '
        'different tar files, begin keys with the name of the tar file by '
        '--shard-in-key')


def fingerprint_of(keys: Sequence[bytes], lengths: np.ndarray) -> str:
    """The fingerprint that an index of some photographs has.

    Args:
        keys (Sequence[bytes]): All keys, sorted.
        lengths (np.ndarray): (N, ) int64, bytes of each photograph.
    """
    ends = np.cumsum([0, *map(len, keys)]).astype('<i8')
    return _fingerprint(np.frombuffer(b''.join(keys), 'u1'), ends, lengths)


def _fingerprint(keys: np.ndarray, offsets: np.ndarray,
                 lengths: np.ndarray) -> str:
    """SHA-256 of the keys and the lengths of the photographs."""
    digest = hashlib.sha256()
    for array in (keys, offsets, lengths):
        for start in range(0, len(array), _STEP):
            digest.update(array[start:start + _STEP].tobytes())
    return digest.hexdigest()


def _read_manifest(path: str) -> dict[str, Any]:
    """Read the manifest of an index."""
    again = command('index_photos', 'PHOTOS', '--out', path)
    try:
        with open(osp.join(path, _MANIFEST), encoding='utf-8') as file:
            content = json.load(file)
        if isinstance(content, dict):
            return content
        found: object = type(content).__name__
    except (FileNotFoundError, NotADirectoryError) as error:
        if not osp.exists(path):
            raise MissingFileError(
                f'The index {path!r} does not exist: make it by {again}'
            ) from error
        raise UserError(
            f'{path!r} is no index of photographs, since it holds no '
            f'{_MANIFEST}: make one by {again}') from error
    except (ValueError, RecursionError) as error:
        found = error
    raise UserError(
        f'{path}: {_MANIFEST} is truncated or altered: expected the JSON of '
        f'an index, found {found}. Copy the index again, or make it again by '
        f'{again}')
