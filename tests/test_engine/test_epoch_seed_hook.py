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

    def draws(first, seed):
        data = Draws()
        runner = Runner(
            OneWeight(), str(tmp_path), experiment_name=f'{first} {seed}',
            train_dataloader=DataLoader(
                data, batch_size=2, num_workers=workers,
                persistent_workers=persistent, collate_fn=list,
                sampler=DefaultSampler(data, shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=None, logger=None),
            randomness=dict(seed=seed))
        watch = Watch()
        runner.register_hook(EpochSeedHook())
        runner.register_hook(watch)
        runner.train_loop._epoch = first
        runner.train()
        return watch.seen

    whole = draws(0, 7)
    rows = [row for batch in whole.values() for row in batch]
    assert len(set(rows)) == len(rows) == 27  # nothing is drawn twice
    assert draws(2, 7) == {
        place: batch for place, batch in whole.items() if place[0] == 2}
    other = [row for batch in draws(2, 8).values() for row in batch]
    assert not set(other) & set(rows)
