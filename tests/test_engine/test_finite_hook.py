"""A run that has diverged ends, and its last good checkpoint stays."""
import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

from cyborgs_plugin.engine import FiniteHook
from cyborgs_plugin.errors import UserError

from ..helpers import small_run


class Spoil(Hook):
    """Spoils the loss, or a weight, at some steps."""

    def __init__(self, steps, value=float('nan'), weight=None):
        self.steps, self.value, self.weight = steps, value, weight

    def before_train(self, runner):
        loss = runner.model.head.loss

        def spoilt(*args):
            losses = loss(*args)
            if self.weight is None and runner.iter + 1 in self.steps:
                losses['loss_contrast'] = losses['loss_contrast'] * self.value
            return losses

        runner.model.head.loss = spoilt

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        if self.weight and runner.iter + 1 in self.steps:
            runner.model.get_parameter(self.weight).data[0] = self.value


def run(photo_root, tmp_path, spoil, **options):
    runner = small_run(photo_root, tmp_path / 'w', **{
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'default_hooks.mask_update.interval': -1,
        'default_hooks.mask_update.initial': dict(type='GridMasks'),
        **options})
    runner.register_hook(spoil)
    with pytest.raises(UserError) as caught:
        runner.train()
    return str(caught.value)


def check_last(tmp_path, message, epoch):
    """The checkpoint of this epoch is there, good, and named."""
    path = tmp_path / 'w' / f'epoch_{epoch}.pth'
    assert sorted(os.listdir(tmp_path / 'w')).count(path.name) == 1
    assert len(list((tmp_path / 'w').glob('*.pth'))) == 1
    assert (tmp_path / 'w' / 'last_checkpoint').read_text() == str(path)
    state = torch.load(path, weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in state.values())
    assert f'The last checkpoint, {path}' in message
    assert '--resume' in message and 'optim_wrapper.optimizer.lr' in message


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_loss_that_is_not_finite_ends_the_run(photo_root, tmp_path, value):
    # 3 steps per epoch: from the first of epoch 2
    message = run(photo_root, tmp_path, Spoil(range(4, 99), value),
                  **{'default_hooks.finite.patience': 2})
    assert 'at step 5 (epoch 2), for 2 steps in a row' in message
    check_last(tmp_path, message, 1)


def test_the_checkpoint_of_an_earlier_run_is_no_way_out(photo_root, tmp_path):
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'epoch_7.pth').write_bytes(b'of an earlier run')
    for pointer in ('epoch_7.pth', 'gone.pth'):
        (tmp_path / 'w' / 'last_checkpoint').write_text(
            str(tmp_path / 'w' / pointer))
        said = run(photo_root, tmp_path, Spoil({1, 2, 3}))
        assert 'This run has written no checkpoint' in said
        assert '--resume' not in said


def test_the_end_of_an_epoch_does_not_wait(photo_root, tmp_path):
    message = run(photo_root, tmp_path, Spoil([6]))
    assert 'not finite after step 6 (epoch 2)' in message
    check_last(tmp_path, message, 1)


def test_weights_are_looked_at_before_they_are_saved(photo_root, tmp_path):
    name = 'neck.projector.fc1.weight'
    message = run(photo_root, tmp_path, Spoil([3], weight=name))
    assert name in message and '1 of ' not in message.split('checkpoint')[1]
    assert 'This run has written no checkpoint' in message
    assert not list((tmp_path / 'w').glob('*.pth'))
    runner = SimpleNamespace(
        model=torch.nn.BatchNorm1d(2), iter=5, epoch=0,
        work_dir=str(tmp_path), optim_wrapper=None)
    runner.model.running_var[0] = float('inf')
    with pytest.raises(UserError, match='1 of 4 weights.*running_var'):
        FiniteHook().before_save_checkpoint(runner, {})


def steps(losses, scales=None, **settings):
    """How many of these steps a run makes."""
    hook, number = FiniteHook(**settings), 0
    wrapper = OptimWrapper(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.))
    runner = SimpleNamespace(
        iter=0, epoch=0, work_dir='nowhere', optim_wrapper=wrapper)
    runner.message_hub = SimpleNamespace(
        get_scalar=lambda name: SimpleNamespace(
            current=lambda: losses[number]))
    if scales is not None:
        wrapper.loss_scaler = SimpleNamespace(
            is_enabled=lambda: True, get_scale=lambda: scales[number])
    while number < len(losses):
        try:
            hook.after_train_iter(runner, 0)
        except UserError:
            return number + 1
        number += 1
    return None


NAN = float('nan')


@pytest.mark.parametrize('losses, scales, patience, stops', [
    ([1, NAN, 1, NAN, NAN, 1], None, 3, None),
    ([1, NAN, NAN, NAN, 1], None, 3, 4),
    ([1, float('-inf'), 1], None, 1, 2),
    # what a loss scaler skips
    ([1] + 16 * [NAN], [2**(15 - n) for n in range(17)], 1, 17),
    ([1] + 15 * [NAN] + [1], [2**(15 - n) for n in range(17)], 1, None),
    ([NAN] * 4, [1., .5, .25, .125], 3, 4),
])
def test_how_many_steps_are_borne(losses, scales, patience, stops):
    assert steps(losses, scales, patience=patience) == stops


def test_wrong_patience():
    with pytest.raises(UserError, match='finite.patience'):
        FiniteHook(patience=0)
