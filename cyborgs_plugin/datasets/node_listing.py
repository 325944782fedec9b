"""One listing of the photographs for all processes of a machine."""
import atexit
import fcntl
import hashlib
import logging
import os
import os.path as osp
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import numpy as np
import torch.distributed as torch_dist
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

Arrays = tuple[np.ndarray, np.ndarray]
_FILES = ('data_bytes.npy', 'data_address.npy')
_HELD: dict[str, int] = {}
"""Descriptors of the locks of listings that this process maps."""


def shares_machine() -> bool:
    """Whether other processes of the same run may list the same folders."""
    # A data worker must not speak to the store of its parent.
    return get_world_size() > 1 and get_worker_info() is None


def listed_once(asked: str, make: Callable[[], Arrays]) -> Arrays:
    """List in the first process of a machine, and map it in the others.

    A process that waits for the lister's lock gets it if the lister dies, and
    then lists itself. The listing is a file in the temporary folder; the last
    process that uses it removes it, or the next run if all were killed.

    Args:
        asked (str): What is listed; processes that ask for the same share it.
        make (Callable): Lists, and returns ``data_bytes`` and
            ``data_address`` of mmengine's data sets.

    Returns:
        tuple[np.ndarray, np.ndarray]: The two, (bytes, ) uint8 and (N, )
        int64, memory-mapped and read-only.
    """
    try:
        root = own_folder('cyborgs_photographs')
    except OSError as error:
        return _unshared(make, error)
    run = _run_id()
    _clear(root, run)
    name = hashlib.sha256(asked.encode('utf-8', 'surrogateescape'))
    folder = osp.join(root, f'{run}_{name.hexdigest()[:16]}')
    with locked(f'{folder}.lock'):
        if not osp.isdir(folder):
            arrays = make()
            try:
                _write(folder, arrays)
            except OSError as error:
                return _unshared(lambda: arrays, error)
        # Held as long as this process and its data workers live.
        _HELD[folder] = _lock(f'{folder}.used', fcntl.LOCK_SH)
    mapped = [np.load(osp.join(folder, file), mmap_mode='r')
              for file in _FILES]
    return mapped[0].view(np.ndarray), mapped[1].view(np.ndarray)


def _unshared(make: Callable[[], Arrays], error: OSError) -> Arrays:
    print_log(
        f'Each process lists the photographs itself, since they cannot be '
        f'shared in {tempfile.gettempdir()} ({error}); TMPDIR names another '
        'folder', logger='current', level=logging.WARNING)
    return make()


def _run_id() -> str:
    """A name that all processes of this run have, and no other run."""
    store = torch_dist.distributed_c10d._get_default_store()
    line = torch_dist.PrefixStore('cyborgs/listing', store)
    # The first one sets it; the others get what it set.
    return line.compare_set('run', '', uuid4().hex).decode()


def own_folder(name: str) -> str:
    """A temporary folder that no other user can write to.

    Args:
        name (str): Beginning of its name.

    Raises:
        OSError: If it cannot be made, or others can write to it.
    """
    folder = osp.join(tempfile.gettempdir(), f'{name}_{os.getuid()}')
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or osp.islink(
            folder):
        raise PermissionError(f'{folder} is open to other users')
    return folder


def _write(folder: str, arrays: Arrays) -> None:
    partial = f'{folder}.partial'
    try:
        shutil.rmtree(partial, ignore_errors=True)
        os.mkdir(partial)
        for name, array in zip(_FILES, arrays):
            np.save(osp.join(partial, name), array)
        os.rename(partial, folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _clear(root: str, run: str) -> None:
    """Remove listings of other runs that no process uses any more."""
    for name in os.listdir(root):
        folder = osp.join(root, name.removesuffix('.lock'))
        if not name.endswith('.lock') or name.startswith(run):
            continue
        _remove(folder)


def _remove(folder: str) -> None:
    """Remove a listing, unless another process makes or uses it."""
    with suppress(OSError), locked(f'{folder}.lock', fcntl.LOCK_NB), locked(
            f'{folder}.used', fcntl.LOCK_NB):
        for part in (folder, f'{folder}.partial'):
            shutil.rmtree(part, ignore_errors=True)
        os.remove(f'{folder}.used')
        os.remove(f'{folder}.lock')


def _lock(path: str, how: int) -> int:
    """Lock a file; the descriptor holds the lock."""
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, how)
    except BaseException:
        os.close(file)
        raise
    return file


@contextmanager
def locked(path: str, how: int = 0) -> Iterator[None]:
    """Lock a file against all others."""
    file = _lock(path, fcntl.LOCK_EX | how)
    try:
        yield
    finally:
        os.close(file)


@atexit.register
def _leave() -> None:
    """Remove what no other process uses."""
    while _HELD:
        folder, file = _HELD.popitem()
        os.close(file)
        _remove(folder)
