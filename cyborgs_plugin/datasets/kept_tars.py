"""Whole tar files of a store, each fetched once for all processes."""
import errno
import hashlib
import os
import os.path as osp
from collections.abc import Callable
from contextlib import suppress

from ..errors import UserError
from .node_listing import locked
from .shards import Address, read_local

_FULL = (errno.ENOSPC, errno.EDQUOT)


def open_kept(folder: str, gigabytes: float) -> None:
    """Make the folder of tar files, or find what is wrong with it.

    Raises:
        UserError: If it cannot be written, or may take nothing.
    """
    if not gigabytes > 0:
        raise UserError('SceneDataset.cache_gb must be a positive number, but '
                        f'is {gigabytes!r}')
    try:
        os.makedirs(folder, exist_ok=True)
        with locked(osp.join(folder, 'lock')):
            pass
    except OSError as error:
        raise UserError(f'SceneDataset.cache={folder!r} cannot be used '
                        f'({error}): name a folder on a local disk') from error


def read_kept(place: Address, folder: str, gigabytes: float,
              fetch: Callable[[str], None] | None) -> bytes | None:
    """Read a photograph of a tar file that is kept.

    Args:
        place (Address): Where it lies in the store.
        folder (str): Folder on a local disk.
        gigabytes (float): The most that its tar files take: those that were
            fetched first are removed first, but not the last one.
        fetch (Callable, optional): Fetches the tar file to a path, if it is
            not kept. None: nothing is fetched.

    Returns:
        bytes or None: The photograph; None if the tar file is not kept, and
        not fetched or the disk is full.

    Raises:
        OSError: What ``fetch`` raises.
        MisplacedError: If the tar file is truncated, or holds something else.
    """
    name = hashlib.sha256(place.shard.encode()).hexdigest()[:32]
    path = osp.join(folder, f'{name}.tar')
    local = place._replace(shard=path)
    with suppress(FileNotFoundError):
        return read_local(local)
    if fetch is None:
        return None
    # One process fetches it. The lock of one that died is free.
    with locked(osp.join(folder, f'{name}.lock')):
        if not osp.exists(path) and not _fetched(path, fetch):
            return None
        _drop_oldest(folder, gigabytes, path)
        with suppress(FileNotFoundError):
            return read_local(local)
    return None  # dropped by another process: too many for the folder


def _fetched(path: str, fetch: Callable[[str], None]) -> bool:
    """Fetch a tar file, which appears whole; False if the disk is full."""
    partial = f'{path}.partial'
    try:
        fetch(partial)
        os.replace(partial, path)
    except OSError as error:
        with suppress(FileNotFoundError):
            os.remove(partial)
        if error.errno in _FULL:
            return False
        raise
    return True


def _drop_oldest(folder: str, gigabytes: float, newest: str) -> None:
    """Remove tar files until the others take no more than they may."""
    kept = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.name.endswith('.tar'):
                    found = entry.stat()
                    kept.append((found.st_mtime_ns, found.st_size,
                                 entry.path))
    size = sum(each for _, each, _ in kept)
    for _, each, path in sorted(kept):
        if size <= gigabytes * 1e9:
            return
        if path != newest:
            with suppress(FileNotFoundError):
                os.remove(path)
            size -= each
