"""Mask rounds in a store, and copies of their files on a local disk.

The objects of a round are the files of its folder. The manifest is written
last: without it there is no round. Files of each attempt have names of their
own, so that a round can be replaced by writing its manifest.
"""
import hashlib
import json
import logging
import mmap
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from mmengine.logging import print_log

from ..errors import MissingFileError, UserError
from ..files import publish
from .far_folder import FarFolder, for_each
from .mask_files import MANIFEST, altered, check_hashes
from .node_listing import locked, own_folder

FOLDER, LIMIT = 'CYBORGS_CACHE', 'CYBORGS_CACHE_GB'
"""Variables of the environment: the folder of the copies, and its limit."""
_GIGABYTES = 50.
_GAVE_UP = 'gave_up'
_OURS = (r'part_\d{5}_\d{4,}(-[0-9a-f]{8})?\.masks|rank_\d{5}\.begun|'
         + _GAVE_UP)
"""Objects of a round, but for the manifest: no others are removed."""
_COPY = r'[0-9a-f]{32}(\.partial)?'
_NAME = 'cyborgs_masks'
_LOCKS = 256
_PAUSE = 10.
"""Seconds between two looks whether another rank has given up."""
_looked: dict[str, float] = {}


class FarRound:
    """The data files of a round in a store, each copied when it is needed.

    A copy is named by the hashes of its blocks, which are checked when it is
    made. So it is of this round and whole if it is there, and processes that
    need it at the same time wait for one of them to make it.

    Args:
        url (str): The round.
        blocks (dict): The blocks of each file, as the manifest has them.
    """

    def __init__(self, url: str, blocks: dict[str, list[dict]]) -> None:
        self.folder, self._blocks = url, blocks
        self._folder = FarFolder(url)
        self.sizes = self._folder.sizes()

    def open(self, name: str) -> BinaryIO:
        """Open a file of the round.

        Raises:
            UserError: If it cannot be had, or is not what the manifest says.
        """
        return self._open(name, verify=False)

    def fetch(self, verify: bool = False) -> None:
        """Copy all files that are not here.

        Args:
            verify (bool): Whether to hash copies that are here once more, and
                replace those that were altered. Defaults to False.
        """
        for_each(lambda name: self._open(name, verify).close(), self._blocks)

    def _open(self, name: str, verify: bool) -> BinaryIO:
        path = _copy_of(self._blocks[name])
        with locked(_lock_of(path)):
            with suppress(FileNotFoundError):
                os.utime(path)  # used now: others are removed first
                file = open(path, 'rb')
                if not verify or self._is_whole(file, name):
                    return file
                file.close()
            return self._copied(name, path)

    def _is_whole(self, file: BinaryIO, name: str) -> bool:
        try:
            self._check(file, name)
        except UserError as error:
            print_log(f'{file.name}, a copy, is fetched again: {error}',
                      logger='current', level=logging.WARNING)
            return False
        return True

    def _copied(self, name: str, path: str) -> BinaryIO:
        """Copy a file under a name that no reader opens, and check it."""
        size, partial = self.sizes.get(name, 0), f'{path}.partial'
        whole = sum(self.sizes.get(each, 0) for each in self._blocks)
        if whole > _limit():
            raise UserError(
                f'{self._folder.url} has {whole / 1e9:.3g} GB, but copies of '
                f'masks may take {_limit() / 1e9:.3g} GB of this machine: '
                f'set {LIMIT} in the environment to twice the size of a round')

        def check() -> None:
            found = os.path.getsize(partial)
            if found < size:  # cut: try again
                raise OSError(f'found {found} of {size} bytes')

        _make_room(size)
        with _writing(partial):
            self._folder.get(name, partial, check)
            file = open(partial, 'rb')
            self._check(file, name)
            publish(partial, path)
        return file

    def _check(self, file: BinaryIO, name: str) -> None:
        """Compare a copy with the manifest."""
        size, found = _end(self._blocks[name]), os.path.getsize(file.name)
        if found != size:
            raise altered(self._folder.url, name, f'{size} bytes', found)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_hashes(self._folder.url, name, content, self._blocks[name])


class FarPart:
    """Where a rank writes the files of a round that goes to a store.

    Each is written on the local disk. When it is complete, it is uploaded and
    stays as a copy, as :class:`FarRound` looks for it.

    Args:
        url (str): The round.
        rank (int): Rank of this process.

    Raises:
        UserError: If the store takes nothing from this process.
    """

    def __init__(self, url: str, rank: int) -> None:
        self._round = FarFolder(url)
        self.folder = copies()
        self._ending = f'-{os.urandom(4).hex()}.masks'
        # Found out before the work, not after it.
        self._round.write(f'rank_{rank:05d}.begun', b'')

    def name(self, name: str) -> str:
        """A name that no file of another attempt has."""
        return name.removesuffix('.masks') + self._ending

    def finish(self, name: str, blocks: Sequence[Any]) -> None:
        """Upload a file that is written, and keep it as a copy."""
        path = os.path.join(self.folder, name)
        with _writing(path):
            self._round.put(name, path)
            _make_room(0)
            publish(path, _copy_of(blocks))


def give_up(url: str) -> None:
    """Tell the ranks on all machines that one cannot write its part."""
    _looked.pop(url, None)
    with suppress(UserError):  # The store may have failed: they notice later.
        FarFolder(url).write(_GAVE_UP, b'')


def is_given_up(url: str) -> bool:
    """Whether a rank cannot write its part, as far as this one has looked."""
    if time.monotonic() - _looked.get(url, -_PAUSE) < _PAUSE:
        return False
    _looked[url] = time.monotonic()
    try:
        return _GAVE_UP in FarFolder(url).sizes()
    except UserError:  # Whoever has to write will say so.
        return False


def clear(url: str) -> bool:
    """Remove what attempts to write a round have left, but not the round.

    Returns:
        bool: Whether there was any.
    """
    folder = FarFolder(url)
    names = {name for name in folder.sizes() if re.fullmatch(_OURS, name)}
    if not names:
        return False
    try:
        content = folder.read(MANIFEST)
    except MissingFileError:  # it is no round
        return _remove(folder, names)
    try:
        names -= {block['file'] for block in json.loads(content)['blocks']}
    except (ValueError, KeyError, TypeError):  # damaged: it may be mended
        return False
    return bool(names) and _remove(folder, names)


def remove_round(url: str) -> None:
    """Remove a round, its manifest first: it never appears incomplete."""
    folder = FarFolder(url)
    names = folder.sizes()
    if _remove(folder, [MANIFEST]):
        _remove(folder, names)


def move_round(url: str, target: str) -> None:
    """Move a round; if this is killed, it is complete in one place."""
    source, goal = FarFolder(url), FarFolder(target)
    names = source.sizes().keys() - {MANIFEST}
    for_each(lambda name: source.copy(name, goal), names)
    source.copy(MANIFEST, goal)
    source.remove([MANIFEST])
    source.remove(names)


def _remove(folder: FarFolder, names: Iterable[str]) -> bool:
    try:
        folder.remove(names)
    except UserError as error:
        print_log(f'{error}; the next mask update tries again',
                  logger='current', level=logging.WARNING)
        return False
    return True


def _end(blocks: Sequence[Any]) -> int:
    return max(block['start'] + block['bytes'] for block in blocks)


def _copy_of(blocks: Sequence[Any]) -> str:
    """Path of the local copy of a file."""
    content = sorted((block['start'], block['bytes'], block['sha256'])
                     for block in blocks)
    name = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return os.path.join(copies(), name[:32])


def _lock_of(path: str) -> str:
    """One of a few locks, which nobody has to remove."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f'.lock_{int(name, 16) % _LOCKS:03d}')


def copies() -> str:
    """The folder of the copies.

    Raises:
        UserError: If it cannot be made.
    """
    named = os.environ.get(FOLDER)
    try:
        if named is None:
            return own_folder(_NAME)
        folder = os.path.join(named, _NAME)
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            'Masks in a store are copied to '
            f'{"TMPDIR" if named is None else named}, which cannot be used '
            f'({error}): name a folder on a local disk by {FOLDER} in the '
            'environment') from error
    return folder


def _limit() -> float:
    """The most bytes that the copies take."""
    text = os.environ.get(LIMIT, str(_GIGABYTES))
    with suppress(ValueError):
        if float(text) > 0:
            return float(text) * 1e9
    raise UserError(f'{LIMIT} must be a positive number, but is {text!r}')


def _make_room(size: int) -> None:
    """Remove the copies whose last use is longest ago, as far as needed.

    A process that has mapped one can go on reading it.

    Args:
        size (int): Bytes that are to be written.
    """
    found = []
    for entry in os.scandir(copies()):
        with suppress(FileNotFoundError):
            if re.fullmatch(rf'{_COPY}|{_OURS}', entry.name):
                status = entry.stat()
                found.append((status.st_mtime, status.st_size, entry.path))
    excess = sum(size for _, size, _ in found) + size - _limit()
    for _, freed, path in sorted(found):
        if excess <= 0:
            return
        with suppress(OSError):
            os.remove(path)
        excess -= freed


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """Remove a file of this machine if the block fails."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.remove(path)
        raise
