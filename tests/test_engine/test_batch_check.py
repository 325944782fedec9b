"""Fewer photographs than a batch."""
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner

from cyborgs_plugin.engine import batch_check
from cyborgs_plugin.engine.batch_check import check_batches
from cyborgs_plugin.errors import UserError

from ..helpers import small_config


@pytest.mark.parametrize('options, fits', [
    (dict(batch_size=13, drop_last=True), False),
    (dict(batch_size=12, drop_last=True), True),
    (dict(batch_size=13, drop_last=False), True),
    (dict(batch_size=13, drop_last=True,
          sampler=dict(type='InfiniteSampler')), True)])
def test_less_than_a_batch_says_what_to_set(photo_root, tmp_path, options,
                                            fits):
    runner = Runner.from_cfg(small_config(photo_root, tmp_path / 'w', **{
        f'train_dataloader.{name}': value for name, value in options.items()
    }))
    if fits:
        check_batches(runner)
        return
    with pytest.raises(UserError, match='12 images, fewer than') as e:
        check_batches(runner)
    assert 'train_dataloader.batch_size=13' in str(e.value)
    assert '--cfg-options train_dataloader.batch_size=12' in str(e.value)


def test_of_several_processes_each_has_a_share(photo_root, tmp_path,
                                               monkeypatch):
    run = Runner.from_cfg(small_config(photo_root, tmp_path / 'w', **{
        'train_dataloader.batch_size': 13,
        'train_dataloader.drop_last': True}))
    monkeypatch.setattr(batch_check, 'get_world_size', lambda: 2)
    with pytest.raises(UserError, match='12 for each of 2 processes, fewer'):
        check_batches(run)


@pytest.mark.parametrize('options, processes, said', [
    # the recipe's batch of 128 on one GPU of 8
    (dict(batch_size=16), 1, '--auto-scale-lr makes it 0.025'),
    (dict(batch_size=16), 8, None),
    (dict(batch_size=8), 8, None),
    (dict(batch_size=16), 32, '512 images .16 of each of 32 processes'),
    (dict(batch_size=16, steps=8), 1, None),
    (dict(batch_size=4, steps=2), 1, '4 of each of 1 processes, 2 times'),
    (dict(batch_size=16, enable=True), 1, None),
    (dict(batch_size=16, base=16), 1, None),
])
def test_a_rate_of_another_batch(photo_root, tmp_path, monkeypatch, options,
                                 processes, said):
    run = Runner.from_cfg(small_config(photo_root, tmp_path / 'w', **{
        'train_dataloader.batch_size': options['batch_size'],
        'train_dataloader.drop_last': False,
        'auto_scale_lr': dict(base_batch_size=options.get('base', 128),
                              enable=options.get('enable', False)),
        'optim_wrapper.optimizer.lr': 0.2,
        'optim_wrapper.accumulative_counts': options.get('steps', 1)}))
    monkeypatch.setattr(batch_check, 'get_world_size', lambda: processes)
    told: list[str] = []
    monkeypatch.setattr(batch_check, 'print_log',
                        lambda text, **options: told.append(text))
    check_batches(run)
    assert len(told) == (said is not None), told
    if said:
        assert re.search(said, told[0]) and 'auto_scale_lr.base' in told[0]


def test_a_rate_where_a_sampler_makes_the_batches(monkeypatch):
    """As of mmdet: the loader itself has no batch size then."""
    data = torch.utils.data.TensorDataset(torch.arange(8))
    loader = torch.utils.data.DataLoader(
        data,
        batch_sampler=torch.utils.data.BatchSampler(
            torch.utils.data.SequentialSampler(data), 2, drop_last=False))
    assert loader.batch_size is None
    run = SimpleNamespace(
        train_dataloader=loader, auto_scale_lr=dict(base_batch_size=16),
        optim_wrapper=dict(optimizer=dict(lr=0.2)))
    told = []
    monkeypatch.setattr(batch_check, 'print_log',
                        lambda text, **options: told.append(text))
    check_batches(run)
    assert 'A batch is 2 images' in told[0]
    run.train_dataloader = torch.utils.data.DataLoader(
        data, batch_sampler=[[0, 1], [2]])  # of no one size
    check_batches(run)
    assert len(told) == 1
