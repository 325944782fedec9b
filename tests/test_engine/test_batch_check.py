"""Fewer photographs than a batch."""
import pytest
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
