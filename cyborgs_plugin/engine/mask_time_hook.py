"""The remaining time that the log shows, with the mask rounds in it."""
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from .mask_update_hook import MaskUpdateHook


@HOOKS.register_module()
class MaskTimeHook(Hook):
    """Add the mask rounds that are still to come to the log's ``eta``.

    mmengine counts steps only. A round is expected to take as long as those
    that this process has made. Until it has made one, nothing is added.
    """

    priority = 'NORMAL'  # after mmengine's timer, before the log

    def __init__(self) -> None:
        self._seconds = 0.

    def before_train_epoch(self, runner: Runner) -> None:
        """Find what comes after this epoch."""
        self._seconds = sum(
            hook.seconds_after(runner.epoch, runner.max_epochs)
            for hook in runner.hooks if isinstance(hook, MaskUpdateHook))

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Add it."""
        hub = runner.message_hub
        if self._seconds and 'eta' in hub.runtime_info:
            hub.update_info('eta', hub.get_info('eta') + self._seconds)
