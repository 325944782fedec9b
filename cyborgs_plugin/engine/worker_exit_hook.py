"""Data workers that end with the training process, and not before."""
import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@HOOKS.register_module()
class WorkerExitHook(Hook):
    """End data workers with the training process, and not before it.

    torch's workers check every 5 seconds whether their parent is alive, but
    only while they wait for work, not while they wait to hand over a batch
    that nobody takes. Here the kernel ends them, on Linux only.

    Workers ignore signals that are sent to the whole group of processes, such
    as Ctrl-C: the training process answers these.
    """

    def before_train(self, runner: Runner) -> None:
        """Set it for the workers, which start later."""
        ending = torch.zeros(1, dtype=torch.bool).share_memory_()
        # Runs before multiprocessing terminates its workers at the end.
        atexit.register(ending.fill_, True)
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                loader.worker_init_fn = _EndWithParent(loader.worker_init_fn,
                                                       ending)


class _EndWithParent:
    """Starts a data worker that ends with its parent."""

    def __init__(self, before: Callable[[int], None] | None,
                 ending: torch.Tensor) -> None:
        self.before = before
        self.ending = ending
        self.parent = os.getpid()

    def __call__(self, worker_id: int) -> None:
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminated)
        if sys.platform == 'linux':
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.parent:  # it died before that call
            os.kill(os.getpid(), signal.SIGKILL)
        if self.before is not None:
            self.before(worker_id)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        if self.ending:
            os._exit(0)
