"""When the weights that a run starts from are checked."""
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner, find_latest_checkpoint
from torch import nn

from ..transfer.pretrained_check import (
    check_checkpoint,
    check_files,
    check_loaded,
)
from ..transfer.recipe_check import check_recipe


@HOOKS.register_module()
class PretrainedCheckHook(Hook):
    """Stop a run whose weights are not those that it was given.

    Before the weights are initialised it compares each file that an
    ``init_cfg`` of type ``Pretrained`` names with the module, the images and
    the strides; afterwards it compares every tensor of the module with the
    file's. A checkpoint of ``load_from`` or of a resumed run must fit the
    model, at least in part. Registered where mmengine's own hooks are, so that
    a config of any OpenMMLab package can name it.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._loaded = False

    def before_run(self, runner: Runner) -> None:
        """Refuse files that do not fit, if any of them will be read."""
        # Only a training initialises weights, and has built its loop by now.
        if isinstance(runner._train_loop, BaseLoop):
            model = _unwrapped(runner.model)
            check_files(model)
            for line in check_recipe(model, runner.cfg):
                runner.logger.info(line)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint of which nothing would be loaded."""
        source = runner._load_from
        if source is None and runner._resume:
            source = find_latest_checkpoint(runner.work_dir)
        warning = check_checkpoint(
            _unwrapped(runner.model), checkpoint, source or 'The checkpoint')
        if warning:
            runner.logger.warning(warning)
        self._loaded = True

    def before_train(self, runner: Runner) -> None:
        """Compare what was loaded, unless a checkpoint has replaced it."""
        if not self._loaded:
            for line in check_loaded(_unwrapped(runner.model)):
                runner.logger.info(line)


def _unwrapped(model: Any) -> nn.Module:
    """The model whose tensors mmengine loads."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
