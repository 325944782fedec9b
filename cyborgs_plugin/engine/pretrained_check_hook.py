"""Decides when the weights that a run starts from are checked."""
import os.path as osp
from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..safe_load import load_safely
from ..start_file import content_hash
from ..transfer.pretrained_check import (
    adapt_files,
    check_checkpoint,
    check_files,
    check_loaded,
    check_resumable,
    pretrained_modules,
)
from ..transfer.recipe_check import check_recipe
from .work_dir_hook import latest_checkpoint


@HOOKS.register_module()
class PretrainedCheckHook(Hook):
    """Stop a run if it does not load the weights that it was given.

    Before weights are initialised, it compares each file that an ``init_cfg``
    of type ``Pretrained`` names with the module, the images and the strides.
    The names in a file from another common source are first converted to those
    of the module. Afterwards it compares every tensor of the module with the
    file's. A checkpoint of ``load_from`` or of a resumed run must fit the
    model, at least in part, and its code is not run: from ``before_run`` until
    the loops begin, mmengine reads with ``load_weights``, and also for the
    rest of the process if loading fails without notice to the hook. It is
    registered with mmengine's own hooks, so that a config of any OpenMMLab
    package can use it.

    Args:
        trust_checkpoint (bool): Whether mmengine may run code in the
            checkpoint. Defaults to False.
    """

    priority = 'VERY_HIGH'

    def __init__(self, trust_checkpoint: bool = False) -> None:
        self.trust_checkpoint = trust_checkpoint
        self._loaded = False
        self._copies: dict[str, str] = {}
        self._restore: Callable[[], None] = lambda: None

    def before_run(self, runner: Runner) -> None:
        """Refuse files that do not fit, if they will be read."""
        # Only training initialises weights; its loop is built by now.
        if isinstance(runner._train_loop, BaseLoop):
            model = _unwrapped(runner.model)
            self._copies = adapt_files(model, runner.work_dir)
            check_files(model)
            for line in check_recipe(model, runner.cfg):
                runner.logger.info(line)
        # until the loops begin: other, later loading must not be changed
        self._restore = load_safely(self.trust_checkpoint)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint from which nothing would be loaded."""
        self._let_go()
        source = runner._load_from
        if source is None and runner._resume:
            source = latest_checkpoint(runner.work_dir)
        source = source or 'The checkpoint'
        warning = check_checkpoint(
            _unwrapped(runner.model), checkpoint, source)
        if warning:
            runner.logger.warning(warning)
        if runner._resume:
            check_resumable(checkpoint, source)
        self._loaded = True

    def before_val(self, runner: Runner) -> None:
        """Restore mmengine's own loading."""
        self._let_go()

    before_test = before_val

    def before_train(self, runner: Runner) -> None:
        """Compare the loaded weights, unless a checkpoint replaced them."""
        self._let_go()
        if not self._loaded:
            for line in check_loaded(_unwrapped(runner.model)):
                runner.logger.info(line)
        self._note_start(runner)

    def _note_start(self, runner: Runner) -> None:
        """Record in all checkpoints the weights the backbone started from."""
        model: Any = _unwrapped(runner.model)
        source = runner._load_from or next(
            (init['checkpoint'] for name, _, init in pretrained_modules(model)
             if name == 'backbone'), None)
        resumed = self._loaded and runner._resume
        if resumed or source is None or not hasattr(model, 'backbone'):
            return
        runner.message_hub.update_info(
            'start', osp.basename(self._copies.get(source, source)))
        runner.message_hub.update_info(
            'start_sha256', content_hash(model.backbone.state_dict()))

    def _let_go(self) -> None:
        self._restore()
        self._restore = lambda: None


def _unwrapped(model: Any) -> nn.Module:
    """The model whose tensors mmengine loads."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
