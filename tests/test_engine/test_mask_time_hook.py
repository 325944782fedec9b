"""The log's remaining time counts mask rounds."""
import pytest
from mmengine.hooks import Hook

from cyborgs_plugin.engine import MaskUpdateHook

from ..helpers import small_run


class Etas(Hook):
    """Notes what the log would show, and the mean time of a step."""

    priority = 'BELOW_NORMAL'

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, **_):
        hub = runner.message_hub
        steps = runner.max_iters - runner.iter - 1
        mean = hub.get_scalar('train/time').mean()
        self.seen.append((runner.epoch, hub.get_info('eta') - steps * mean))


def test_rounds_to_come_are_in_the_remaining_time(photo_root, tmp_path,
                                                  monkeypatch):
    """Of 3 epochs with a round before each, the first has two to come."""
    runner = small_run(photo_root, tmp_path / 'w',
                       **{'default_hooks.health.interval': -1})
    hook, = (hook for hook in runner.hooks if isinstance(hook, MaskUpdateHook))
    monkeypatch.setattr(hook, 'seconds_after', lambda epoch, epochs: 100. * (
        epochs - 1 - epoch))
    etas = Etas()
    runner.register_hook(etas)
    runner.train()
    first = [extra for epoch, extra in etas.seen if epoch == 0]
    last = [extra for epoch, extra in etas.seen if epoch == 2]
    assert first == pytest.approx([200] * len(first), abs=20)
    assert last == pytest.approx([0] * len(last), abs=20)


def test_seconds_of_rounds():
    hook = MaskUpdateHook(interval=2)
    assert hook.seconds_after(0, 9) == 0  # none was made yet
    hook._seconds, hook._made = 12., 3
    # after epochs 2, 4, 6 and 8 of 9
    assert hook.seconds_after(0, 9) == 16
    assert hook.seconds_after(4, 9) == 8
    assert hook.seconds_after(8, 9) == 0
