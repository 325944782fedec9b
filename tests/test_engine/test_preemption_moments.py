"""What a signal does at moments that a training run seldom shows."""
import os
import signal
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from cyborgs_plugin.engine import EpochSeedHook, preemption_hook
from cyborgs_plugin.engine.atomic_checkpoint_hook import save_atomically


@pytest.fixture
def saved(monkeypatch):
    """Names and epochs of the checkpoints that are written."""
    names = []

    def save(hook, runner, path, meta, by_epoch):
        names.append((os.path.basename(path), meta))

    monkeypatch.setattr(preemption_hook, 'save_atomically', save)
    return names


@pytest.fixture
def hook():
    hook = preemption_hook.PreemptionHook()
    yield hook
    hook.after_run(None)


def run_of(hook, loop=EpochBasedTrainLoop, **attributes):
    checkpoints = CheckpointHook()
    checkpoints.out_dir = '/work'
    runner = SimpleNamespace(
        epoch=0, iter=0, train_loop=mock.Mock(spec=loop),
        hooks=[checkpoints, EpochSeedHook()],
        message_hub=mock.Mock(**{'get_info.return_value': 'train'}),
        optim_wrapper=mock.Mock(**{'should_update.return_value': True}))
    vars(runner).update(attributes)
    hook.before_run(runner)
    return runner


def test_a_start_from_other_weights_saves_nothing(hook, saved):
    """While round 0 is made: the file's epochs are not this run's."""
    runner = run_of(hook)
    if hasattr(hook, 'after_load_checkpoint'):  # by load_from
        hook.after_load_checkpoint(runner, dict(meta=dict(epoch=8, iter=99)))
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    assert saved == []


def test_a_signal_at_the_end_of_an_epoch_awaits_no_mask_round(hook, saved):
    runner = run_of(hook, epoch=3, iter=11)
    hook.before_train_iter(runner, 2)
    hook.after_train_iter(runner, 2)
    runner.iter = 12
    os.kill(os.getpid(), signal.SIGTERM)  # the epoch's checkpoint is written
    with pytest.raises(SystemExit):
        hook.after_train_epoch(runner)
    assert saved == [('epoch_4.pth', dict(epoch=4, iter=12))]


@pytest.mark.parametrize('epoch_ends', [False, True])
def test_another_rank_is_heard_within_the_epoch(hook, saved, monkeypatch,
                                                epoch_ends):
    """Its word comes with the second of three steps."""
    words = iter([0., 1., 0., 0., 0., 0.])
    monkeypatch.setattr(preemption_hook, 'get_world_size', lambda: 2)
    monkeypatch.setattr(preemption_hook, 'get_comm_device',
                        lambda: torch.device('cpu'))
    monkeypatch.setattr(preemption_hook, 'all_reduce',
                        lambda word: word.add_(next(words)))
    monkeypatch.setattr(preemption_hook, 'barrier', lambda: None)
    runner = run_of(hook)
    with pytest.raises(SystemExit):
        for step in range(5):
            runner.iter = step
            hook.before_train_iter(runner, step)
            hook.after_train_iter(runner, step)
            if epoch_ends and step == 2:
                runner.iter = 3
                hook.after_train_epoch(runner)
    assert saved == [('epoch_1.pth', dict(epoch=1, iter=3)) if epoch_ends
                     else ('iter_4.pth', dict(epoch=0, iter=4))]


def test_no_accumulated_gradients_are_lost(hook, saved):
    runner = run_of(hook)
    signal_at, updates = 4, 3  # gradients of 3 steps are added
    with pytest.raises(SystemExit):
        for step in range(9):
            runner.iter = step
            runner.optim_wrapper.should_update.return_value = (
                (step + 1) % updates == 0)
            hook.before_train_iter(runner, step)
            if step + 1 == signal_at:
                os.kill(os.getpid(), signal.SIGUSR1)
            hook.after_train_iter(runner, step)
    assert saved == [('iter_6.pth', dict(epoch=0, iter=6))]


def test_the_best_checkpoint_is_not_the_latest(hook, saved):
    runner = run_of(hook, iter=4)
    hook.before_train_iter(runner, 3)
    hook.after_train_epoch(runner)
    runner.message_hub.get_info.return_value = 'val'
    hook.before_save_checkpoint(runner, dict(meta=dict(epoch=1, iter=4)))
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    assert saved == [('epoch_1.pth', dict(epoch=1, iter=4))]


def test_a_forked_process_saves_nothing(hook, saved):
    """It inherits the handler, and is ended by SIGTERM alone."""
    run_of(hook)
    worker = os.fork()
    if not worker:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            if hook._signal is None:
                os.kill(os.getpid(), signal.SIGTERM)
        finally:  # not reached
            os._exit(1)
    _, status = os.waitpid(worker, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def test_a_remote_checkpoint_is_written_in_place(tmp_path):
    hook = CheckpointHook(backend_args=dict(backend='petrel'))
    hook.file_backend = mock.Mock()
    runner = mock.Mock(work_dir=str(tmp_path))
    save_atomically(hook, runner, 's3://bucket/run/iter_4.pth', {}, False)
    (folder, name), options = runner.save_checkpoint.call_args
    assert f'{folder}/{name}' == 's3://bucket/run/iter_4.pth'
    assert options['backend_args'] == dict(backend='petrel')
    assert (tmp_path / 'last_checkpoint').read_text() == f'{folder}/{name}'


def test_a_run_by_iterations_ends_as_it_would(hook, saved):
    runner = run_of(hook, IterBasedTrainLoop, iter=5)
    hook.before_train_iter(runner, 4)
    os.kill(os.getpid(), signal.SIGTERM)
    hook.after_train_epoch(runner)
    assert saved == []
