"""A run that a signal ends is, resumed, the run that was not disturbed."""
import os
import shutil
import signal

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cyborgs_plugin.engine import PreemptionHook, preemption_hook
from cyborgs_plugin.segmentation import NetworkMasks

from ..helpers import small_config, small_run, write_photo
from . import test_kills as kills

pytestmark = pytest.mark.slow  # each trains

# 12 images in 4 steps per epoch; masks are renewed after the first.
RUN = {
    'train_cfg.max_epochs': 2,
    'train_dataloader.batch_size': 3,
    'default_hooks.mask_update.group_size': 4,
    # only a signal saves before the end
    'default_hooks.checkpoint.interval': 2,
    'optim_wrapper.optimizer.lr': 0.01,
}


class SignalHook(Hook):
    """Send this process a signal during a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def before_train_iter(self, runner, **_):
        if runner.iter == self.step:
            os.kill(os.getpid(), self.number)


def weights(work_dir):
    saved = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
    return {**saved['state_dict'], **{
        f'optimizer {number} {name}': value
        for number, state in saved['optimizer']['state'].items()
        for name, value in state.items()}}


def check_equal(work_dir, other):
    first, second = weights(work_dir), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """Pictures, and the work dir of a run that was left alone."""
    root = tmp_path_factory.mktemp('undisturbed')
    for number in range(12):
        write_photo(root / 'data' / 'train2017' / f'{number:02d}.png',
                    seed=number)
    small_run(root / 'data', root / 'w', **RUN).train()
    return root


def preempted(runner):
    """Train until the signal; give the exit code."""
    with pytest.raises(SystemExit) as ended:
        runner.train()
    runner.call_hook('after_run')  # a process that ends need not
    return ended.value.code


@pytest.mark.parametrize('step, workers', [(1, 2), (3, 0), (6, 0)])
def test_a_preempted_run_is_the_same(undisturbed, tmp_path, step, workers):
    """Within an epoch, with its last step, and after a mask round."""
    options = {**RUN, 'train_dataloader.num_workers': workers}
    runner = small_run(undisturbed / 'data', tmp_path / 'x', **options)
    runner.register_hook(SignalHook(step, preemption_hook.SIGNALS[step % 3]))
    assert preempted(runner) == 75
    last = tmp_path / 'x' / f'iter_{step + 1}.pth'
    assert (tmp_path / 'x' / 'last_checkpoint').read_text() == str(last)
    again = small_run(undisturbed / 'data', tmp_path / 'x', resume=True,
                      **options)
    again.train()
    assert (again.epoch, again.iter) == (2, 8)
    check_equal(undisturbed / 'w', tmp_path / 'x')


@pytest.mark.parametrize('in_round', [0, 1])
def test_a_mask_round_is_given_up(undisturbed, tmp_path, monkeypatch,
                                  in_round):
    label_maps, groups = NetworkMasks.label_maps, []

    def interrupted(self, images, *args):
        if len(images) > 1:  # HealthHook asks for single ones
            groups.append(args)
            if len(groups) == 1 + 3 * in_round:  # 12 images in groups of 4
                os.kill(os.getpid(), signal.SIGTERM)
        return label_maps(self, images, *args)

    monkeypatch.setattr(NetworkMasks, 'label_maps', interrupted)
    options = {**RUN, 'default_hooks.mask_update.decode_threads': 1}
    runner = small_run(undisturbed / 'data', tmp_path / 'x', **options)
    assert preempted(runner) == 75
    monkeypatch.undo()
    work_dir = tmp_path / 'x'
    # in round 0 there is nothing to save yet
    assert (work_dir / 'epoch_1.pth').exists() == bool(in_round)
    assert not (work_dir / 'masks' / f'round_{in_round:04d}').exists()
    small_run(undisturbed / 'data', work_dir, resume=True, **RUN).train()
    check_equal(undisturbed / 'w', work_dir)


def test_all_ranks_stop_after_the_same_step(undisturbed, tmp_path,
                                            monkeypatch):
    """One of them gets the signal."""
    monkeypatch.setitem(kills.STEPS, 'stepping',
                        (PreemptionHook, 'after_train_iter', None, None))

    def preempt():
        os.kill(os.getpid(), signal.SIGTERM)

    options = {**RUN, 'train_dataloader.batch_size': 2}  # 3 steps per epoch
    for name, fault in (('w', None), ('x', (1, 'stepping', 1, preempt)),
                        ('x', None)):
        codes, logs = kills.run(undisturbed / 'data', tmp_path / name, 2,
                                fault, world_size=2, **options)
        assert codes == [0, 0] if fault is None else [1, 1], logs
        if fault is not None:
            assert all('SystemExit: 75' in log for log in logs)
            saved = os.listdir(tmp_path / 'x')
            assert 'iter_3.pth' in saved and 'epoch_1.pth' not in saved
    check_equal(tmp_path / 'w', tmp_path / 'x')


def test_without_exact_epochs_nothing_is_saved(undisturbed, tmp_path):
    cfg = small_config(undisturbed / 'data', tmp_path / 'x', **RUN)
    del cfg.default_hooks['epoch_seed']
    runner = Runner.from_cfg(cfg)
    runner.register_hook(SignalHook(1))
    assert preempted(runner) == 75
    assert not list((tmp_path / 'x').glob('*.pth'))


def test_a_second_signal_is_the_systems(monkeypatch):
    hook, killed = PreemptionHook(), []
    monkeypatch.setattr(os, 'kill', lambda *args: killed.append(args))
    for _ in range(2):  # torchrun passes on what the group got, too
        hook._on_signal(signal.SIGUSR1, None)
    assert killed == []
    hook._since -= 6
    before = signal.getsignal(signal.SIGUSR1)
    try:
        hook._on_signal(signal.SIGUSR1, None)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert killed == [(os.getpid(), signal.SIGUSR1)]


def test_signals_are_given_back(undisturbed, tmp_path):
    before = [signal.getsignal(number) for number in preemption_hook.SIGNALS]
    shutil.copytree(undisturbed / 'w', tmp_path / 'w')
    runner = small_run(undisturbed / 'data', tmp_path / 'w', resume=True,
                       **RUN)
    runner.train()  # which is at its end
    assert before == [signal.getsignal(number)
                      for number in preemption_hook.SIGNALS]
