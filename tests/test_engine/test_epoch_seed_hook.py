"""A resumed run is the uninterrupted one, bit by bit."""
import random
import shutil

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from cyborgs_plugin.engine import EpochSeedHook

from ..helpers import OneWeight, small_run
from . import test_kills as kills

RUN = {
    'train_cfg.max_epochs': 4,
    'train_dataloader.batch_size': 6,
    # epochs 1 and 3 end in the middle of an interval
    'default_hooks.mask_update.interval': 2,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'optim_wrapper.optimizer.lr': 0.01
}


def copied(work_dir, copy, epoch):
    """As if the run had been killed after an epoch."""
    shutil.copytree(work_dir, copy)
    for later in range(epoch + 1, RUN['train_cfg.max_epochs'] + 1):
        (copy / f'epoch_{later}.pth').unlink()
    (copy / 'last_checkpoint').write_text(str(work_dir / f'epoch_{epoch}.pth'))


def check_equal(work_dir, copy):
    wanted, found = (torch.load(path / 'epoch_4.pth', weights_only=False)
                     for path in (work_dir, copy))
    for name, value in wanted['state_dict'].items():
        assert torch.equal(value, found['state_dict'][name]), name
    for name, state in wanted['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(
                value, found['optimizer']['state'][name][key]), (name, key)
    hubs = [saved['message_hub']['runtime_info'] for saved in (wanted, found)]
    assert hubs[0]['mask_round'] == hubs[1]['mask_round'] == 1
    assert hubs[0]['mask_hash'] == hubs[1]['mask_hash']


@pytest.mark.slow
@pytest.mark.parametrize('epoch, workers', [(1, 0), (3, 2)])
def test_a_resumed_run_is_the_same(photo_root, tmp_path, epoch, workers):
    options = {
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0, **RUN
    }
    small_run(photo_root, tmp_path / 'w', **options).train()
    copied(tmp_path / 'w', tmp_path / 'x', epoch)
    again = small_run(photo_root, tmp_path / 'x', resume=True, **options)
    again.train()
    assert again.iter == 8
    check_equal(tmp_path / 'w', tmp_path / 'x')


@pytest.mark.slow
@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_a_resumed_run_of_two_processes_is_the_same(photo_root, tmp_path,
                                                    epoch):
    options = {**RUN, 'train_dataloader.batch_size': 3}
    for name in ('w', 'x'):
        if name == 'x':
            copied(tmp_path / 'w', tmp_path / 'x', epoch)
        codes, logs = kills.run(photo_root, tmp_path / name, 4, world_size=2,
                                **options)
        assert codes == [0, 0], logs[0][-3000:]
    assert f'resumed epoch: {epoch}, iter: {epoch * 2}' in logs[0]
    check_equal(tmp_path / 'w', tmp_path / 'x')


# 12 images in 4 steps per epoch; masks are renewed after the first.
WITHIN = {
    **RUN, 'train_dataloader.batch_size': 3, 'train_cfg.max_epochs': 2,
    'default_hooks.mask_update.interval': 1,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 1
}


def copied_within(work_dir, copy, step, steps):
    shutil.copytree(work_dir, copy)
    for later in range(step + 1, steps + 1):
        (copy / f'iter_{later}.pth').unlink()
    (copy / 'last_checkpoint').write_text(str(work_dir / f'iter_{step}.pth'))


def check_equal_within(work_dir, copy, steps):
    for path in (work_dir, copy):
        shutil.copy(path / f'iter_{steps}.pth', path / 'epoch_4.pth')
    check_equal(work_dir, copy)


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    {'train_dataloader.num_workers': 0},
    {'train_dataloader.num_workers': 2,
     'train_dataloader.persistent_workers': True},
    {'default_hooks.device_data': dict(type='DeviceDataHook')}])
def test_a_run_resumed_within_an_epoch_is_the_same(photo_root, tmp_path,
                                                   options):
    """In the middle of the first epoch, and at its end before the masks are
    renewed."""
    options = {**WITHIN, **options}
    small_run(photo_root, tmp_path / 'w', **options).train()
    for step in (2, 4):
        copy = tmp_path / f'x{step}'
        copied_within(tmp_path / 'w', copy, step, 8)
        again = small_run(photo_root, copy, resume=True, **options)
        again.train()
        assert (again.epoch, again.iter) == (2, 8)
        check_equal_within(tmp_path / 'w', copy, 8)


@pytest.mark.slow
def test_two_processes_resumed_within_an_epoch(photo_root, tmp_path):
    """And one in their place, which sees what remains of the epoch."""
    options = {**WITHIN, 'train_dataloader.batch_size': 2}
    codes, logs = kills.run(photo_root, tmp_path / 'w', 2, world_size=2,
                            **options)
    assert codes == [0, 0], logs[0][-3000:]
    for name in 'xy':
        copied_within(tmp_path / 'w', tmp_path / name, 2, 6)
    codes, logs = kills.run(photo_root, tmp_path / 'x', 2, world_size=2,
                            **options)
    assert codes == [0, 0], logs[0][-3000:]
    assert '8 of its images were seen, 1 of 3 batches remain' in logs[0]
    check_equal_within(tmp_path / 'w', tmp_path / 'x', 6)
    runner = small_run(photo_root, tmp_path / 'y', resume=True, **options)
    seen = {}
    runner.register_hook(Batches(seen))
    runner.train()
    assert [len(batches) for batches in seen.values()] == [2, 6]


class Batches(Hook):

    def __init__(self, seen):
        self.seen = seen

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        self.seen.setdefault(runner.epoch, []).append(batch_idx)


class Draws(Dataset):
    """Samples are what the three generators give."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([
            random.random(), np.random.random(), float(torch.rand(()))])


class Watch(Hook):

    def __init__(self):
        self.seen = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None,
                         outputs=None):
        place = (runner.epoch, batch_idx)
        self.seen[place] = [str(row.tolist()) for row in data_batch] + [
            str(torch.rand(()).item())]


@pytest.mark.parametrize('workers, persistent', [(0, False), (2, False),
                                                 (2, True)])
def test_an_epoch_depends_on_seed_and_number_alone(tmp_path, workers,
                                                   persistent):

    def draws(first, seed, seen=None, workers=workers):
        data = Draws()
        runner = Runner(
            OneWeight(), str(tmp_path), experiment_name=f'{first} {seed}',
            train_dataloader=DataLoader(
                data, batch_size=2, num_workers=workers,
                persistent_workers=persistent and workers > 0,
                collate_fn=list,
                sampler=DefaultSampler(data, shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=None, logger=None),
            randomness=dict(seed=seed))
        watch = Watch()
        runner.register_hook(EpochSeedHook())
        runner.register_hook(watch)
        runner.train_loop._epoch = first
        if seen is not None:
            runner.message_hub.update_info('images_of_epoch', seen)
        runner.train()
        return watch.seen

    whole = draws(0, 7)
    rows = [row for batch in whole.values() for row in batch]
    assert len(set(rows)) == len(rows) == 27  # nothing is drawn twice
    assert draws(2, 7) == {
        place: batch for place, batch in whole.items() if place[0] == 2}
    other = [row for batch in draws(2, 8).values() for row in batch]
    assert not set(other) & set(rows)
    # the number of workers changes nothing
    assert draws(0, 7, workers=0 if workers else 2) == whole
    # 4 of 6 images were seen, in batches of 2; 3 are a batch and a half
    for seen, first in ((4, 2), (3, 1), (6, 3), (0, 0)):
        found = draws(1, 7, seen)
        assert found.keys() == {(1, place) for place in range(3 - first)} | {
            (2, place) for place in range(3)}
        assert all(
            batch == whole[epoch, place + (first if epoch == 1 else 0)]
            for (epoch, place), batch in found.items())


def test_a_checkpoint_that_does_not_say_is_warned_of(tmp_path, capsys):
    data = Draws()
    runner = Runner(
        OneWeight(), str(tmp_path), experiment_name='warned',
        train_dataloader=DataLoader(
            data, batch_size=2, collate_fn=list,
            sampler=DefaultSampler(data, shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None, logger=None))
    runner.register_hook(EpochSeedHook())
    runner.train_loop._epoch, runner.train_loop._iter = 1, 4
    runner.train()
    assert 'epoch 2 starts over' in capsys.readouterr().out
