"""Stops training that has diverged and keeps its good checkpoints."""
import math
import os
import os.path as osp
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from mmpretrain.utils import get_ori_model

from ..errors import MissingFileError, UserError
from .work_dir_hook import latest_checkpoint


@HOOKS.register_module()
class FiniteHook(Hook):
    """Stop a run whose loss or weights are NaN or infinite.

    The loss is the number that mmengine has already copied to the log, so
    there is no extra wait for a GPU. The weights are checked before a
    checkpoint is written: one with a weight that is not finite is never
    written, and no older one is deleted for it.

    A loss scaler (fp16) skips steps, which does not change the weights, and
    lowers its scale each time. Skipped steps count once the scale is below 1,
    since then the loss itself is too large.

    Args:
        patience (int): Number of consecutive steps with such a loss that end
            the run. Defaults to 3.
    """

    # Before the checkpoint of the same epoch, after the log.
    priority = 'LOW'

    def __init__(self, patience: int = 3) -> None:
        if patience < 1:
            raise UserError('default_hooks.finite.patience must be a number '
                            f'of steps, at least 1, but is {patience}')
        self.patience = patience
        self._count = 0
        self._earlier: tuple[str, int] | None = None

    def before_train(self, runner: Runner) -> None:
        """Record which checkpoints in the folder are not from this run."""
        self._earlier = None if runner._resume else _last(runner)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Count the steps whose loss is not finite.

        Raises:
            UserError: If there are ``patience`` consecutive ones.
        """
        loss = runner.message_hub.get_scalar('train/loss').current()
        if math.isfinite(loss):
            self._count = 0
        elif not is_skipped(runner):
            self._count += 1
            if self._count >= self.patience:
                raise UserError(
                    f'The loss is {loss} at step {runner.iter + 1} (epoch '
                    f'{runner.epoch + 1}), for {self._count} steps in a row: '
                    f'training has diverged. {self._way_out(runner)}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Check the weights on all ranks before they are saved."""
        self._check_weights(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights also within an epoch."""
        self._check_weights(runner)

    def _check_weights(self, runner: Runner) -> None:
        state = {
            name: value
            for name, value in get_ori_model(runner.model).state_dict().items()
            if value.is_floating_point()
        }
        finite = torch.stack([v.isfinite().all() for v in state.values()])
        if not finite.all():
            bad = [name for name, ok in zip(state, finite.tolist()) if not ok]
            raise UserError(
                f'{len(bad)} of {len(state)} weights, such as {bad[0]}, are '
                f'not finite after step {runner.iter} (epoch '
                f'{runner.epoch + 1}): training has diverged, and they are '
                f'not saved. {self._way_out(runner)}')

    def _way_out(self, runner: Runner) -> str:
        last = _last(runner)
        fixes = ('a lower rate (optim_wrapper.optimizer.lr), a longer warm-up '
                 '(param_scheduler.0.end) or clipped gradients '
                 '(optim_wrapper.clip_grad.max_norm=1.)')
        if hasattr(runner.optim_wrapper, 'loss_scaler'):
            fixes += ', or without --amp'
        if last is None or last == self._earlier:
            return (f'This run has written no checkpoint; start again with '
                    f'{fixes}')
        return (f'The last checkpoint, {last[0]}, is from before: resume '
                f'it with --resume and {fixes}')


def is_skipped(runner: Runner) -> bool:
    """Whether a loss scaler has skipped the step and may still recover.

    Args:
        runner (Runner): The runner, after a step.
    """
    scaler: Any = getattr(runner.optim_wrapper, 'loss_scaler', None)
    return scaler is not None and scaler.is_enabled() and (
        scaler.get_scale() >= 1)


def _last(runner: Runner) -> tuple[str, int] | None:
    """The checkpoint that --resume would use, and when it was written."""
    try:
        path = latest_checkpoint(runner.work_dir)
    except MissingFileError:
        return None
    if path is None:
        return None
    return path, os.stat(path).st_mtime_ns if osp.isfile(path) else 0
