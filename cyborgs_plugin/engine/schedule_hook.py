"""A resumed run follows the schedule of its config."""
import copy
import warnings
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

# Content of a scheduler's state other than its settings.
_PROGRESS = {
    '_global_step', '_last_value', 'last_step', 'optimizer', 'verbose'
}


@HOOKS.register_module()
class ScheduleHook(Hook):
    """Let a resumed run follow the schedule of its config.

    A checkpoint also holds the settings of its schedulers, and mmengine loads
    them over those of the config. A run that is resumed with a larger
    ``train_cfg.max_epochs`` would keep the old end and train all further
    epochs at the lowest rate. If a setting differs, including the base rates,
    this hook uses the schedulers of the config, advances them to the epoch of
    the checkpoint and warns of the changes, in iterations if a schedule counts
    those.

    Runs with several optimizers are not changed.
    """

    def __init__(self) -> None:
        self._wanted: list[Any] = []
        self._fresh: list[dict[str, Any]] = []
        self._loaded: list[dict[str, Any]] = []

    def before_run(self, runner: Runner) -> None:
        """Keep the schedulers as built from the config."""
        schedulers = runner.param_schedulers or []
        if isinstance(schedulers, list):
            # Their optimizer remains that of the run.
            self._wanted = [copy.copy(s) for s in schedulers]
            self._fresh = [{
                name: group[name]
                for name in ('lr', 'momentum', 'betas') if name in group
            } for group in runner.optim_wrapper.param_groups]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the settings that mmengine is about to load over them."""
        self._loaded = checkpoint.get('param_schedulers', [])

    def before_train(self, runner: Runner) -> None:
        """Use the config's schedulers if they differ."""
        if not self._fresh or runner.iter == 0:
            return
        changes = self._changes()
        if not changes:
            return
        found = ('The checkpoint has another schedule than the config '
                 f'({"; ".join(changes)})')
        if any(getattr(s, 'need_val_args', False) for s in self._wanted):
            runner.logger.warning(
                f'{found}. The run continues with that of the checkpoint: one '
                'that depends on scores cannot be brought to its epoch')
            return
        self._replay(runner)
        runner.logger.warning(
            f'{found}. The run continues with that of the config')

    def _changes(self) -> list[str]:
        """The differences between checkpoint and config."""
        if len(self._loaded) != len(self._wanted):
            return [f'{len(self._loaded)} schedulers -> {len(self._wanted)}']
        return [
            f'param_scheduler.{number}.{name}: {_text(old.get(name))} -> '
            f'{_text(new)}'
            for number, (old, scheduler) in enumerate(
                zip(self._loaded, self._wanted))
            for name, new in {
                **dict.fromkeys(old), **scheduler.state_dict()
            }.items() if name not in _PROGRESS and old.get(name) != new
        ]

    def _replay(self, runner: Runner) -> None:
        """Advance the config's schedulers to the position of the run."""
        schedulers, groups = self._wanted, runner.optim_wrapper.param_groups
        for group, fresh in zip(groups, self._fresh):
            group.update(fresh)  # also what no scheduler changes any more
        for scheduler in schedulers:
            # The last one holds the value after all of them.
            name = scheduler.param_name
            for group, base, first in zip(groups, scheduler.base_values,
                                          scheduler._last_value):
                group[f'initial_{name}'], group[name] = base, first
        epochs, iters = runner.epoch, runner.iter
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            # An epoch may have had a different number of iterations before.
            iters = epochs * len(runner.train_loop.dataloader)
        finished = 0
        with warnings.catch_warnings():
            # of a scheduler that steps before its optimizer
            warnings.simplefilter('ignore')
            for step in range(1, iters + 1):
                _step(schedulers, by_epoch=False)
                if finished < step * epochs // iters:
                    _step(schedulers, by_epoch=True)
                    finished += 1
        runner.param_schedulers = schedulers


def _step(schedulers: list[Any], by_epoch: bool) -> None:
    for scheduler in schedulers:
        if scheduler.by_epoch == by_epoch:
            scheduler.step()


def _text(value: Any) -> str:
    """A short description of a setting."""
    if isinstance(value, dict):  # milestones and how often each is named
        return str(sorted(value))
    if isinstance(value, list) and len(value) > 3:  # a rate for each group
        return f'[{", ".join(map(str, value[:3]))}, ...]'
    return str(value)
