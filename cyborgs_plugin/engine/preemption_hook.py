"""Leave a training at a signal, so that it resumes at that very step."""
import os
import os.path as osp
import signal
import time
from collections import deque
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_comm_device, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from .atomic_checkpoint_hook import save_atomically
from .epoch_seed_hook import EpochSeedHook

EXIT_CODE = 75
"""Of a run that was preempted: "try again" (EX_TEMPFAIL of sysexits.h)."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PASSED_ON = 5.
"""Seconds in which one signal may come several times."""
_LAG = 2
"""Steps between a rank's word and the step at which all read it."""


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save a checkpoint and end the run at SIGTERM, SIGUSR1 or SIGUSR2.

    Clusters send one of them before they take a machine away. Whichever rank
    gets it, all ranks stop after the same step, one of the next three, or the
    next that updates the weights if gradients are accumulated; the checkpoint
    ``iter_N.pth`` is that of this step. At the end of an epoch, and while
    a mask round is made or the model is validated, that work is given up and
    the checkpoint is ``epoch_N.pth``. The exit code is 75. A second signal
    ends the process at once if it comes more than five seconds later: before
    that it is the same one, passed on by torchrun or the like.

    ``EpochSeedHook`` lets a run resume within an epoch. Without it a training
    by epochs saves nothing, and resumes from its last checkpoint.
    """

    priority = 'LOWEST'  # of a step: all else is done

    def __init__(self) -> None:
        self._process = os.getpid()
        self._signal: signal.Signals | None = None
        self._since = 0.  # when it came
        self._trained = False  # a step since the start
        self._saved = -1  # the iteration of the newest checkpoint
        self._epochs = 0  # finished ones
        self._between = False  # two epochs
        self._before: dict[signal.Signals, Any] = {}
        self._words: deque[_Word] = deque()
        self._all_leave = False

    def before_run(self, runner: Runner) -> None:
        """Take the signals over."""
        self._runner = runner
        self._between = True
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)

    def after_run(self, runner: Runner) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note what is saved."""
        # No run resumes from the best one of a validation.
        if runner.message_hub.get_info('loop_stage') == 'train':
            self._saved = checkpoint['meta']['iter']

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """A step begins."""
        self._trained, self._between = True, False

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Stop here, if all ranks do."""
        if self._agreed() and self._is_updated(runner):
            whole = isinstance(runner.train_loop, EpochBasedTrainLoop)
            can_resume = not whole or any(
                isinstance(hook, EpochSeedHook) for hook in runner.hooks)
            self._leave(
                dict(epoch=runner.epoch, iter=runner.iter + 1),
                f'iter_{runner.iter + 1}.pth' if can_resume else None)

    def after_train_epoch(self, runner: Runner) -> None:
        """Until the next step nothing changes the model."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return  # the run has ended
        self._epochs = runner.epoch + 1
        if self._agreed(at_once=True):  # not after hours of a mask round
            self._leave(dict(epoch=self._epochs, iter=runner.iter),
                        f'epoch_{self._epochs}.pth')
        self._between = True

    @staticmethod
    def _is_updated(runner: Runner) -> bool:
        """Whether no gradients are kept for the next step."""
        wrapper = runner.optim_wrapper
        return isinstance(wrapper, OptimWrapperDict) or wrapper.should_update()

    def _agreed(self, at_once: bool = False) -> bool:
        """Whether some rank has got a signal, as all ranks see it alike.

        The ranks add up their words after each step, and read the sum some
        steps later, or at once.
        """
        if get_world_size() == 1:
            return self._signal is not None
        # torch.tensor would wait for the device
        word = torch.full((1, ), float(self._signal is not None),
                          device=get_comm_device())
        all_reduce(word)
        self._words.append(_Word(word))
        while len(self._words) > (0 if at_once else _LAG):
            self._all_leave |= self._words.popleft().read()
        return self._all_leave

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork, such as a data worker
            if number == signal.SIGTERM:  # how multiprocessing ends it
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._signal is not None:
            if time.monotonic() - self._since > _PASSED_ON:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._signal, self._since = signal.Signals(number), time.monotonic()
        if self._between:
            self._leave(dict(epoch=self._epochs, iter=self._runner.iter),
                        f'epoch_{self._epochs}.pth')

    def _leave(self, meta: dict[str, int], name: str | None) -> None:
        """Save, unless that is done, and end the process."""
        runner = self._runner
        hook = next((hook for hook in runner.hooks
                     if isinstance(hook, CheckpointHook)), None)
        why = self._signal.name if self._signal else 'A signal to another rank'
        where = f'step {meta["iter"]}'
        if hook is None or name is None:
            said = (f'{why} ended the training at {where}; nothing was saved '
                    'since the last checkpoint')
        else:
            if self._trained and self._saved != meta['iter']:
                save_atomically(hook, runner, osp.join(hook.out_dir, name),
                                meta, by_epoch=name.startswith('epoch'))
            said = f'{why} ended the training at {where}' + (
                ', which the latest checkpoint holds' if meta['iter'] else '')
        print_log(
            f'{said}. The same command with --resume continues there',
            logger='current')
        if not self._between:
            barrier()  # rank 0 has written it
        raise SystemExit(EXIT_CODE)


class _Word:
    """A sum on its way to the host, which waits for no later work."""

    def __init__(self, total: torch.Tensor) -> None:
        self._copy = total.to('cpu', non_blocking=True)
        self._here = torch.cuda.Event() if total.is_cuda else None
        if self._here is not None:
            self._here.record()

    def read(self) -> bool:
        """Whether the sum is above 0."""
        if self._here is not None:
            self._here.synchronize()
        return bool(self._copy > 0)
