"""Label maps of a whole data set on disk, one folder a mask round.

A bank's root holds ``round_0000/``, ``round_0001/``, ... Each round is written
aside by all ranks, merged, verified and published by one atomic rename, so
that a reader sees a whole round or none. docs/mask_bank.md tells the format.
"""
import difflib
import hashlib
import json
import os
import os.path as osp
import re
import shutil
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
from mmengine.fileio import dump, load

FORMAT_VERSION = 1
_MANIFEST = 'manifest.json'
_ARRAYS = ('keys', 'labels', 'offsets', 'sizes')
_REGENERATE = ('regenerate the round from the checkpoint it came from with '
               'tools/generate_masks.py')


def round_path(root: str, mask_round: int) -> str:
    """Name the folder of a round.

    Args:
        root (str): Root of the bank.
        mask_round (int): Number of the round, 0 for the initial masks.

    Returns:
        str: Its path, whether it exists or not.
    """
    return osp.join(root, f'round_{mask_round:04d}')


def list_rounds(root: str) -> List[int]:
    """List the published rounds.

    Args:
        root (str): Root of the bank; it may be missing.

    Returns:
        List[int]: Their numbers, ascending.
    """
    if not osp.isdir(root):
        return []
    names = (re.fullmatch(r'round_(\d{4,})', n) for n in os.listdir(root))
    rounds = sorted(int(name[1]) for name in names if name)
    return [
        number for number in rounds
        if osp.isfile(osp.join(round_path(root, number), _MANIFEST))
    ]


def prune_rounds(root: str, max_keep: int, keep: Sequence[int] = ()) -> None:
    """Delete all but the newest rounds.

    Args:
        root (str): Root of the bank.
        max_keep (int): How many to keep; 0 or less keeps all.
        keep (Sequence[int]): Rounds to keep in any case, such as those that a
            checkpoint refers to. Defaults to ().
    """
    if max_keep <= 0:
        return
    for number in list_rounds(root)[:-max_keep]:
        if number not in keep:
            _discard(round_path(root, number))


def _discard(folder: str) -> None:
    """Delete a round; a kill on the way leaves no half round by its name."""
    parent, name = osp.split(folder)
    doomed = osp.join(parent, f'.{name}.deleted')
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


class MaskBank:
    """The label maps of one round, memory-mapped and read-only.

    It travels to workers as its path and is opened again there.

    Attributes:
        path (str): The round's folder.
        round (int): Number of the round, 0 for the initial masks.
        hash (str): SHA-256 of the manifest, which holds those of the files.
        manifest (dict): What is known of the round.
    """

    def __init__(self, path: str, verify: bool = False) -> None:
        self.path = path
        manifest_path = osp.join(path, _MANIFEST)
        try:
            with open(manifest_path, 'rb') as file:
                self.hash = hashlib.sha256(file.read()).hexdigest()
            self.manifest: Dict[str, Any] = load(manifest_path)
            version = self.manifest['format_version']
            files = self.manifest['files']
            self.round: int = self.manifest['round']
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{manifest_path} is no manifest of a mask round '
                             f'({error!r}): {_REGENERATE}') from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f'{path} has format version {version}, but this version of '
                f'cyborgs_plugin reads {FORMAT_VERSION}: {_REGENERATE}')
        arrays = {}
        for name in _ARRAYS:
            file_path = osp.join(path, f'{name}.npy')
            found = osp.getsize(file_path) if osp.isfile(file_path) else None
            expected = files[f'{name}.npy']
            if found != expected['bytes']:
                raise ValueError(
                    f'{file_path} has {found} bytes, but {expected["bytes"]} '
                    f'were written: {_REGENERATE}')
            if verify and _sha256(file_path) != expected['sha256']:
                raise ValueError(
                    f'{file_path} was altered: its SHA-256 is not '
                    f'{expected["sha256"]}: {_REGENERATE}')
            arrays[name] = np.load(
                file_path, mmap_mode='r', allow_pickle=False)
        # Plain views: indexing a memmap object costs far more.
        self._keys = np.asarray(arrays['keys'])
        self._labels = np.asarray(arrays['labels'])
        self._offsets = np.asarray(arrays['offsets'])
        self._sizes = np.asarray(arrays['sizes'])
        if len(self._offsets) != len(self._keys) + 1 or (
                self._offsets[-1] != len(self._labels)):
            raise ValueError(f'{path}: its files disagree: {_REGENERATE}')

    @classmethod
    def open(cls, path: str, verify: bool = False) -> 'MaskBank':
        """Open a round.

        Args:
            path (str): A round's folder, or a bank's root for its newest
                round.
            verify (bool): Also check the SHA-256 of every file, which reads
                them all. Defaults to False.

        Returns:
            MaskBank: The round.

        Raises:
            FileNotFoundError: If there is no round.
            ValueError: If a file is missing, cut or (``verify``) altered.
        """
        if '://' in path:
            raise ValueError(f'A mask bank is memory-mapped and must lie on a '
                             f'local or mounted disk, but got {path!r}')
        if osp.isfile(osp.join(path, _MANIFEST)):
            return cls(path, verify)
        rounds = list_rounds(path)
        if not rounds:
            raise FileNotFoundError(
                f'No mask round in {path!r}: train with MaskUpdateHook or '
                'make one with tools/generate_masks.py')
        return cls(round_path(path, rounds[-1]), verify)

    def __reduce__(self) -> Tuple:
        return MaskBank, (self.path, )

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self._find(key) >= 0

    def _find(self, key: str) -> int:
        """Position of a key, or -1."""
        code = np.bytes_(key.encode())
        index = int(np.searchsorted(self._keys, code))
        found = index < len(self._keys) and self._keys[index] == code
        return index if found else -1

    def keys(self) -> List[str]:
        """List the keys of the images, sorted by their UTF-8 bytes."""
        return [key.decode() for key in self._keys]

    def label_map(self, key: str) -> np.ndarray:
        """Read the label map of an image.

        Args:
            key (str): The image's key.

        Returns:
            np.ndarray: Ids of the grid that covers the image, shape (h, w),
            uint8 (uint16 in a bank with ids above 255), read-only.

        Raises:
            KeyError: If the bank does not know the image.
        """
        index = self._find(key)
        if index < 0:
            near = difflib.get_close_matches(key, self.keys()[:10000], n=1)
            raise KeyError(
                f'{self.path} has no label map for {key!r} among its '
                f'{len(self)}; the nearest is {near or self.keys()[:1]}')
        start, end = self._offsets[index], self._offsets[index + 1]
        return self._labels[start:end].reshape(self._sizes[index])


def _partial(root: str, mask_round: int) -> str:
    return osp.join(root, f'.round_{mask_round:04d}.partial')


def begin_round(root: str, mask_round: int) -> None:
    """Make room for the shards of a round (one rank, before the others).

    What a killed attempt left is deleted.

    Args:
        root (str): Root of the bank.
        mask_round (int): Number of the round.

    Raises:
        OSError: If the folder cannot be written.
    """
    try:
        os.makedirs(root, exist_ok=True)
        for name in os.listdir(root):
            if re.fullmatch(r'\.round_\d+\.(partial|deleted)', name):
                shutil.rmtree(osp.join(root, name))
        os.mkdir(_partial(root, mask_round))
    except OSError as error:
        raise OSError(f'The mask bank {root!r} cannot be written ({error}): '
                      'set work_dir, or default_hooks.mask_update.bank_root, '
                      'to a folder with room and write access') from error


class MaskBankWriter:
    """Write one rank's share of a round.

    Args:
        root (str): Root of the bank, after :func:`begin_round`.
        mask_round (int): Number of the round.
        rank (int): Number of the shard. Defaults to 0.
    """

    def __init__(self, root: str, mask_round: int, rank: int = 0) -> None:
        stem = osp.join(_partial(root, mask_round), f'shard_{rank:05d}')
        try:
            self._labels = open(f'{stem}.labels', 'wb')
            self._index = open(f'{stem}.index', 'w', encoding='utf-8')
        except OSError as error:
            raise OSError(
                f'Rank {rank} cannot write {stem!r} ({error}): work_dir must '
                'lie on a disk that all nodes share') from error

    def add(self, index: int, key: str, label_map: np.ndarray) -> None:
        """Append a label map.

        Args:
            index (int): Position of the image in the whole round.
            key (str): The image's key.
            label_map (np.ndarray): Ids, shape (h, w), integer, 0 to 65535.

        Raises:
            ValueError: If the map is no integer (h, w) array in that range.
            OSError: If the disk is full.
        """
        if label_map.ndim != 2 or label_map.dtype.kind not in 'iu' or (
                label_map.size == 0 or label_map.min() < 0
                or label_map.max() > 65535):
            raise ValueError(
                f'The label map of {key!r} must hold ids from 0 to 65535 in '
                f'two dimensions, but is {label_map.dtype} '
                f'{label_map.shape}')
        dtype = np.uint8 if label_map.max() < 256 else np.uint16
        entry = [index, key, *label_map.shape, np.dtype(dtype).itemsize]
        self._labels.write(label_map.astype(dtype).tobytes())
        self._index.write(json.dumps(entry) + '\n')

    def close(self) -> None:
        """Bring the shard to the disk."""
        for file in (self._labels, self._index):
            file.flush()
            os.fsync(file.fileno())
            file.close()


def publish_round(root: str, mask_round: int, num_images: int,
                  meta: Dict[str, Any]) -> MaskBank:
    """Merge the shards of all ranks and publish the round (one rank).

    The caller makes sure that every writer is closed. The result depends on
    the label maps only, not on how they were spread over ranks.

    Args:
        root (str): Root of the bank.
        mask_round (int): Number of the round.
        num_images (int): How many label maps there must be.
        meta (Dict[str, Any]): What else the manifest shall hold, as JSON.

    Returns:
        MaskBank: The published round.

    Raises:
        ValueError: If an image is missing or comes twice.
        OSError: If the disk is full; the rounds before are untouched.
    """
    partial, final = _partial(root, mask_round), round_path(root, mask_round)
    shards = sorted(
        osp.join(partial, name) for name in os.listdir(partial)
        if name.endswith('.index'))
    entries = sorted(entry for shard in shards for entry in _entries(shard))
    _check_complete(entries, num_images, partial, len(shards))
    _merge(partial, entries)
    for shard in shards:
        os.remove(shard)
        os.remove(shard.replace('.index', '.labels'))

    files = {}
    for name in _ARRAYS:
        path = osp.join(partial, f'{name}.npy')
        _fsync(path)
        files[f'{name}.npy'] = dict(
            bytes=osp.getsize(path), sha256=_sha256(path))
    manifest = dict(
        meta,
        format_version=FORMAT_VERSION,
        round=mask_round,
        num_images=num_images,
        files=files)
    path = osp.join(partial, _MANIFEST)
    dump(manifest, path, indent=1, sort_keys=True)
    _fsync(path)
    _fsync(partial)
    MaskBank(partial, verify=True)
    if osp.isdir(final):  # a resumed run makes a later round once more
        _discard(final)
    os.rename(partial, final)
    _fsync(root)
    return MaskBank(final)


Entry = Tuple[bytes, int, int, int, int, str, int]
"""Key, index, height, width, bytes an id, file of the labels, position."""


def _entries(shard: str) -> Iterator[Entry]:
    """Read the index of a shard."""
    labels = shard.replace('.index', '.labels')
    position = 0
    with open(shard, encoding='utf-8') as file:
        for line in file:
            index, key, height, width, itemsize = json.loads(line)
            yield (key.encode(), index, height, width, itemsize, labels,
                   position)
            position += height * width * itemsize


def _check_complete(entries: List[Entry], num_images: int, partial: str,
                    num_shards: int) -> None:
    keys = {entry[0] for entry in entries}
    indices = {entry[1] for entry in entries}
    if not (len(keys) == len(indices) == len(entries)):
        raise ValueError(
            f'{len(entries) - min(len(keys), len(indices))} of '
            f'{len(entries)} label maps in {partial} come twice: image keys '
            'must be unique over all data sets')
    missing = num_images - len(indices & set(range(num_images)))
    if missing or len(entries) != num_images:
        raise ValueError(
            f'{missing} of {num_images} label maps are missing in the '
            f'{num_shards} shards of {partial}: work_dir must lie on a disk '
            'that all nodes share')


def _merge(folder: str, entries: List[Entry]) -> None:
    """Write the arrays of a round from the shards, sorted by key."""
    sizes = np.array([entry[2:4] for entry in entries], dtype=np.uint32)
    offsets = np.zeros(len(entries) + 1, dtype=np.int64)
    np.cumsum(sizes.prod(axis=1, dtype=np.int64), out=offsets[1:])
    keys = np.array([entry[0] for entry in entries], dtype=np.bytes_)
    for name, array in (('sizes', sizes), ('offsets', offsets), ('keys',
                                                                 keys)):
        np.save(osp.join(folder, f'{name}.npy'), array, allow_pickle=False)
    wide = any(entry[4] > 1 for entry in entries)
    sources = {entry[5]: open(entry[5], 'rb') for entry in entries}
    with open(osp.join(folder, 'labels.npy'), 'wb') as file:
        header = dict(
            descr=np.lib.format.dtype_to_descr(
                np.dtype(np.uint16 if wide else np.uint8)),
            fortran_order=False,
            shape=(int(offsets[-1]), ))
        np.lib.format.write_array_header_1_0(file, header)
        for _, _, height, width, itemsize, path, position in entries:
            source = sources[path]
            source.seek(position)
            content = source.read(height * width * itemsize)
            if wide and itemsize == 1:
                narrow = np.frombuffer(content, np.uint8)
                content = narrow.astype(np.uint16).tobytes()
            file.write(content)
    for source in sources.values():
        source.close()


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
