"""Data workers that end with the training process."""
import ctypes
import os
import signal
import sys
from collections.abc import Callable

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@HOOKS.register_module()
class WorkerExitHook(Hook):
    """Make the kernel end the data workers of a killed process.

    torch's workers check every 5 seconds whether their parent is alive, but
    only while they wait for work, not while they wait to hand over a batch
    that nobody takes. Works only on Linux.
    """

    def before_train(self, runner: Runner) -> None:
        """Set it for the workers, which start later."""
        if sys.platform != 'linux':
            return
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                loader.worker_init_fn = _EndWithParent(loader.worker_init_fn)


class _EndWithParent:
    """Starts a data worker that ends with its parent."""

    def __init__(self, before: Callable[[int], None] | None) -> None:
        self.before = before
        self.parent = os.getpid()

    def __call__(self, worker_id: int) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.parent:  # it died before that call
            os.kill(os.getpid(), signal.SIGKILL)
        if self.before is not None:
            self.before(worker_id)
