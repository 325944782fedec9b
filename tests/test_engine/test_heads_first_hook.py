"""HeadsFirstHook: the backbone stands still, and then it does not."""
import pytest
from mmengine.hooks import Hook

from cyborgs_plugin.engine import HeadsFirstHook
from cyborgs_plugin.errors import UserError

from ..helpers import small_run


class Watch(Hook):
    """Note the weights and rates after each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.weights = []
        self.rates = []

    def note(self, runner):
        model = runner.model
        self.weights.append([
            next(part.parameters()).detach().clone()
            for part in (model.backbone, model.neck)
        ])
        self.rates.append(
            [group['lr'] for group in runner.optim_wrapper.param_groups])

    def before_train(self, runner):
        self.note(runner)

    def after_train_iter(self, runner, *_, **__):
        self.note(runner)

    def moved(self):
        return [[not one.equal(other) for one, other in zip(*pair)]
                for pair in zip(self.weights, self.weights[1:])]


def run(photo_root, work_dir, *hooks, **options):
    watch = Watch()
    runner = small_run(
        photo_root, work_dir, **{
            'train_cfg.max_epochs': 2,
            'default_hooks.mask_update.interval': -1,
            'custom_hooks': list(hooks),
            'optim_wrapper.paramwise_cfg': dict(
                custom_keys=dict(backbone=dict(lr_mult=0.1))),
            **options
        })
    runner.register_hook(watch)
    runner.train()
    return watch


def test_the_backbone_waits(photo_root, tmp_path):
    plain = run(photo_root, tmp_path / 'a')
    steps = len(plain.moved())
    assert plain.moved() == steps * [[True, True]]
    held = run(photo_root, tmp_path / 'b',
               dict(type='HeadsFirstHook', share=1.5 / steps))
    # The second iteration begins before the share is over.
    assert held.moved() == 2 * [[False, True]] + (steps - 2) * [[True, True]]
    # The schedule is none the wiser.
    assert held.rates == plain.rates


def test_one_group_is_refused(photo_root, tmp_path):
    with pytest.raises(UserError, match='paramwise_cfg'):
        run(photo_root, tmp_path, dict(type='HeadsFirstHook'),
            **{'optim_wrapper.paramwise_cfg': None})


def test_wrong_share():
    assert HeadsFirstHook().share == 0.1
    with pytest.raises(UserError, match='share'):
        HeadsFirstHook(share=10)
