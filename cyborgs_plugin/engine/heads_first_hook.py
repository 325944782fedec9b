"""New heads are trained first, while the backbone does not change."""
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from mmpretrain.utils import get_ori_model

from ..errors import UserError


@HOOKS.register_module()
class HeadsFirstHook(Hook):
    """Give the backbone a learning rate of 0 for the first part of training.

    Its gradients are still computed, so that distributed training needs no
    change and the optimizer has estimates of the moments when the backbone
    starts to train. Only ``norm_eval`` freezes batch norms. The rate is
    restored after each iteration, so that the schedule, its log and
    checkpoints are not affected.

    Args:
        share (float): Share of all iterations, 0 to 1. Defaults to 0.1.
    """

    def __init__(self, share: float = 0.1) -> None:
        if not 0 <= share <= 1:
            raise UserError('HeadsFirstHook.share is a part of the training, '
                            f'from 0 to 1, but is {share}')
        self.share = share
        self._held: list[tuple[dict, float]] = []

    def before_train(self, runner: Runner) -> None:
        """Find the backbone among the optimizer's groups."""
        own = set(map(id, get_ori_model(runner.model).backbone.parameters()))
        self._groups = []
        for group in runner.optim_wrapper.param_groups:
            inside = {id(weight) in own for weight in group['params']}
            if len(inside) == 2:
                raise UserError(
                    'HeadsFirstHook holds the rate of the backbone, but the '
                    'optimizer has one group for it and the heads: set '
                    'optim_wrapper.paramwise_cfg.custom_keys to '
                    'dict(backbone=dict(lr_mult=...))')
            if inside == {True}:
                self._groups.append(group)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """Set the backbone's rate to 0."""
        if runner.iter < self.share * runner.max_iters:
            for group in self._groups:
                self._held.append((group, group['lr']))
                group['lr'] = 0.

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Restore the rate before the schedule reads it."""
        while self._held:
            group, rate = self._held.pop()
            group['lr'] = rate
