"""Data workers that end when the training process is gone."""
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
    """Let the kernel end the data workers of a process that was killed.

    torch's workers look every 5 seconds whether their parent lives, but only
    while they wait for work: one that waits to hand over a batch, which
    nobody takes any more, does not. On Linux only.
    """

    def before_train(self, runner: Runner) -> None:
        """Tell the workers, which start later."""
        if sys.platform != 'linux':
            return
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                loader.worker_init_fn = _EndWithParent(loader.worker_init_fn)


class _EndWithParent:
    """Starts a data worker that its parent's end kills."""

    def __init__(self, before: Callable[[int], None] | None) -> None:
        self.before = before
        self.parent = os.getpid()

    def __call__(self, worker_id: int) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.parent:  # it died before that call
            os.kill(os.getpid(), signal.SIGKILL)
        if self.before is not None:
            self.before(worker_id)
