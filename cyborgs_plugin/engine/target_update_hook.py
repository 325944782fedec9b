"""Decides when the target network follows the online one."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from mmpretrain.utils import get_ori_model


@HOOKS.register_module()
class TargetUpdateHook(Hook):
    """Update the target network once after each optimiser step.

    With gradient accumulation, several iterations make one step, and a loss
    scaler skips a step whose gradients overflow. So the hook listens to the
    optimizer's own steps. Before the first step, target and online network are
    made equal, however the online one was initialised or loaded.
    """

    def __init__(self) -> None:
        self._stepped = False

    def before_train(self, runner: Runner) -> None:
        """Make both networks equal in a new run."""
        runner.optim_wrapper.optimizer.register_step_post_hook(self._note)
        model = get_ori_model(runner.model)
        if int(model.target_net.steps) == 0:
            model.update_target()

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Follow the step that this iteration made, if any."""
        if self._stepped:
            self._stepped = False
            get_ori_model(runner.model).update_target()

    def _note(self, *_: object) -> None:
        """Record a step of the optimizer."""
        self._stepped = True
