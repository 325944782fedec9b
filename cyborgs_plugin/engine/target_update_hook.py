"""When the target network follows the online one."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from mmpretrain.utils import get_ori_model


@HOOKS.register_module()
class TargetUpdateHook(Hook):
    """Update the target network once after each optimiser step.

    Under gradient accumulation several iterations make one step. Before the
    first step of all, target and online network are made equal, whatever
    initialised or loaded the online one.
    """

    def before_train(self, runner: Runner) -> None:
        """Make both networks equal in a fresh run."""
        model = get_ori_model(runner.model)
        if int(model.target_net.steps) == 0:
            model.update_target()

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Follow the step that this iteration made, if any."""
        if runner.optim_wrapper.should_update():
            get_ori_model(runner.model).update_target()
