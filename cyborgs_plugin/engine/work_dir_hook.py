"""The folder of a run: one run at a time, and free to be moved."""
import errno
import fcntl
import logging
import os
import os.path as osp
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner, find_latest_checkpoint
from mmpretrain.registry import HOOKS

from ..errors import MissingFileError, UserError

LOCK = '.training.lock'
# The system's errors for folders that cannot be written to.
REFUSALS = (errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EIO, errno.EISDIR,
            errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR,
            errno.EPERM, errno.EROFS)


@HOOKS.register_module()
class WorkDirHook(Hook):
    """Refuse a second training in the folder of a run.

    Two runs would replace each other's mask rounds and checkpoints. The
    operating system locks ``{work_dir}/.training.lock``; the lock ends with
    the process, however that ends. The file says who holds it.

    A resumed run uses the checkpoint in its own ``work_dir``, even if the
    folder was moved or copied.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._lock: int | None = None

    def before_run(self, runner: Runner) -> None:
        """Lock the folder, and find the checkpoint to resume from.

        Raises:
            UserError: On every rank, if another process trains in it, or it
                cannot be written to.
        """
        refusal: list[str | None] = [None]
        if runner.rank == 0:
            try:
                self.lock(runner.work_dir)
            except UserError as error:
                refusal = [str(error)]
        broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise UserError(refusal[0])
        if runner._resume and not runner._load_from:
            runner._load_from = latest_checkpoint(runner.work_dir)

    def after_run(self, runner: Runner) -> None:
        """Release the folder."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def lock(self, work_dir: str) -> None:
        """Lock a folder for this process; only warn if it cannot be locked.

        Args:
            work_dir (str): The folder; it is created if it does not exist.

        Raises:
            UserError: If another process has it, or it cannot be written to.
        """
        with writing_to(work_dir):
            os.makedirs(work_dir, exist_ok=True)
            path = osp.join(work_dir, LOCK)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Unlike flock's, this lock does not survive in data workers.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors='replace')
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print_log(
                    f'{work_dir} is on a disk without locks ({error}): '
                    'nothing keeps a second training out of it',
                    logger='current',
                    level=logging.WARNING)
                return
            raise UserError(
                f'{work_dir} is in use by another training '
                f'({holder.strip() or "which has just begun"}): two would '
                "replace each other's checkpoints. Give this one another "
                '--work-dir, or stop that one first') from None
        self._lock = descriptor
        with writing_to(work_dir):
            os.ftruncate(descriptor, 0)
            os.write(
                descriptor,
                f'host {socket.gethostname()}, process {os.getpid()}, since '
                f'{time.strftime("%Y-%m-%d %H:%M:%S")}\n'.encode())


@contextmanager
def writing_to(work_dir: str) -> Iterator[None]:
    """Name the folder of the run if the system does not allow writing to it.

    Args:
        work_dir (str): The folder.

    Raises:
        UserError: Instead of the system's error, if that names a path in this
            folder or none.
    """
    try:
        yield
    except OSError as error:
        own = osp.abspath(work_dir)
        named = osp.abspath(
            error.filename if isinstance(error.filename, str) else own)
        if error.errno not in REFUSALS or (
                osp.commonpath([named, own]) not in (named, own)):
            raise
        raise UserError(
            f'{work_dir} cannot be the folder of the run ({error}): give '
            'one that can be written to with --work-dir') from error


def latest_checkpoint(work_dir: str) -> str | None:
    """Find the checkpoint that a run in this folder resumes from.

    ``last_checkpoint`` holds the path at the time of writing. If the folder
    was moved or copied since, the file of that name in it is used.

    Args:
        work_dir (str): Folder of the run.

    Returns:
        str or None: Path of the checkpoint; None if the folder has none.

    Raises:
        FileNotFoundError: If that file does not exist.
    """
    pointer = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(pointer):
        return None
    path = find_latest_checkpoint(work_dir) or ''
    own = osp.join(work_dir, osp.basename(path))
    if path and osp.isfile(own):
        return own
    if '://' in path or osp.isfile(path):  # of checkpoint.out_dir
        return path
    found = sorted(name for name in os.listdir(work_dir)
                   if name.endswith('.pth'))
    raise MissingFileError(
        f'{pointer} names {path!r}, and no such file is there or in '
        f'{work_dir}, which holds '
        f'{", ".join(found) or "no checkpoint"}: resume one with --resume '
        f'PATH, or delete {pointer} to start over')
