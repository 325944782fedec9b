"""Hooks in real runs: rounds, workers, resume, target updates."""
import os.path as osp

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.mask_bank import list_rounds, round_path
from cyborgs_plugin.engine import MaskUpdateHook

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
TOY = osp.join(ROOT, 'configs', 'cyborgs_toy.py')


def small_config(photo_root, work_dir, **options):
    """A toy run of a narrow ResNet-18 on 12 pictures, 3 batches an epoch."""
    cfg = Config.fromfile(TOY)
    pipeline = cfg.train_dataloader.dataset.pipeline
    for view in pipeline[1].transforms:
        view[0].scale = 32
    cfg.model.backbone.update(base_channels=16, stem_channels=16)
    cfg.model.neck.projector.update(in_channels=224, hid_channels=32)
    cfg.model.head.predictor.update(hid_channels=32)
    cfg.merge_from_dict({
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.dataset.data_root': str(photo_root),
        'train_cfg.max_epochs': 3,
        'default_hooks.mask_update.interval': 1,
        'default_hooks.logger.interval': 1,
        'work_dir': str(work_dir),
        'experiment_name': str(work_dir),
        **options
    })
    return cfg


def small_run(*args, **options):
    return Runner.from_cfg(small_config(*args, **options))


def test_rounds_are_made_used_and_remembered(photo_root, tmp_path):
    runner = small_run(photo_root, tmp_path / 'w')
    runner.train()
    masks = str(tmp_path / 'w' / 'masks')
    assert list_rounds(masks) == [0, 1, 2]
    bank = MaskBank.open(masks)
    saved = torch.load(
        tmp_path / 'w' / 'epoch_3.pth', weights_only=False)['message_hub']
    assert saved['runtime_info']['mask_round'] == 2
    assert saved['runtime_info']['mask_hash'] == bank.hash
    assert bank.manifest['epoch'] == 2
    dataset = runner.train_loop.dataloader.dataset
    assert dataset.mask_bank.round == 2


def test_resume_goes_on_with_the_same_round(photo_root, tmp_path):
    straight = small_run(photo_root, tmp_path / 'a')
    straight.train()
    small_run(
        photo_root, tmp_path / 'b', **{
            'train_cfg.max_epochs': 3,
            'default_hooks.mask_update.interval': 1
        }).train()
    # as if killed after epoch 2: its last epoch is done again
    (tmp_path / 'b' / 'last_checkpoint').write_text(
        str(tmp_path / 'b' / 'epoch_2.pth'))
    again = small_run(photo_root, tmp_path / 'b', resume=True,
                      experiment_name='again')
    again.train()
    assert again.epoch == 3
    assert again.message_hub.get_info('mask_round') == 2
    for number in range(3):
        banks = [
            MaskBank.open(round_path(str(tmp_path / name / 'masks'), number))
            for name in 'ab'
        ]
        assert banks[0].hash == banks[1].hash


@pytest.mark.parametrize('damage', ['gone', 'altered'])
def test_resume_without_its_round_says_what_to_do(photo_root, tmp_path,
                                                  damage):
    import shutil
    small_run(photo_root, tmp_path / 'w').train()
    path = round_path(str(tmp_path / 'w' / 'masks'), 2)
    if damage == 'gone':
        shutil.rmtree(path)
    else:
        labels = np.load(osp.join(path, 'labels.npy'))
        np.save(osp.join(path, 'labels.npy'), labels[::-1].copy())
    runner = small_run(photo_root, tmp_path / 'w', resume=True,
                       experiment_name='again')
    with pytest.raises((FileNotFoundError, ValueError),
                       match='generate_masks'):
        runner.train()


def test_an_early_kill_uses_round_0_again(photo_root, tmp_path, caplog):
    small_run(photo_root, tmp_path / 'w').train()
    made = osp.getmtime(
        osp.join(round_path(str(tmp_path / 'w' / 'masks'), 0), 'labels.npy'))
    small_run(photo_root, tmp_path / 'w', experiment_name='again').train()
    assert made == osp.getmtime(
        osp.join(round_path(str(tmp_path / 'w' / 'masks'), 0), 'labels.npy'))


def test_interval_minus_one_keeps_the_initial_masks(photo_root, tmp_path):
    runner = small_run(
        photo_root, tmp_path / 'w', **{
            'default_hooks.mask_update.interval': -1,
            'default_hooks.mask_update.initial': dict(type='GridMasks')
        })
    runner.train()
    assert list_rounds(str(tmp_path / 'w' / 'masks')) == [0]
    bank = runner.train_loop.dataloader.dataset.mask_bank
    assert bank.label_map('train2017/00.png').tolist() == np.arange(
        16).reshape(4, 4).tolist()


def test_pruning_spares_the_round_of_the_checkpoint(photo_root, tmp_path):
    small_run(
        photo_root, tmp_path / 'w', **{
            'train_cfg.max_epochs': 4,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.mask_update.max_keep_rounds': 1
        }).train()
    # round 3 is the newest; the checkpoint of epoch 2 refers to round 2
    assert list_rounds(str(tmp_path / 'w' / 'masks')) == [2, 3]


def test_fixed_bank_is_left_alone(photo_root, tmp_path):
    options = {'train_cfg.max_epochs': 1}
    small_run(photo_root, tmp_path / 'a', **options).train()
    bank = str(tmp_path / 'a' / 'masks' / 'round_0000')
    runner = small_run(
        photo_root, tmp_path / 'b', experiment_name='b', **{
            'train_dataloader.dataset.mask_bank': bank
        })
    runner.train()
    assert not osp.exists(tmp_path / 'b' / 'masks')
    assert runner.train_loop.dataloader.dataset.mask_bank.path == bank


@pytest.mark.parametrize('bad', [dict(interval=0), dict(interval=-2),
                                 dict(group_size=0)])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match='mask_update'):
        MaskUpdateHook(**bad)


def test_iteration_based_training_is_refused(photo_root, tmp_path):
    runner = small_run(photo_root, tmp_path / 'w')
    runner._train_loop = dict(type='IterBasedTrainLoop', max_iters=2)
    with pytest.raises(TypeError, match='by_epoch=True'):
        runner.train()


def test_target_follows_once_an_optimiser_step(photo_root, tmp_path):
    """6 batches, accumulated by 3: two steps, and the equalisation before."""
    runner = small_run(
        photo_root, tmp_path / 'w', **{
            'train_dataloader.batch_size': 2,
            'train_cfg.max_epochs': 1,
            'optim_wrapper.accumulative_counts': 3
        })
    seen = []
    update = runner.model.update_target

    def watched():
        online = [p.clone() for p in runner.model.backbone.parameters()]
        before = [
            p.clone()
            for p in runner.model.target_net.module[0].parameters()
        ]
        update()
        after = list(runner.model.target_net.module[0].parameters())
        seen.append(
            all(
                torch.allclose(a, o if not seen else 0.996 * b + 0.004 * o,
                               atol=1e-7)
                for a, b, o in zip(after, before, online)))

    runner.model.update_target = watched
    runner.train()
    assert seen == [True] * 3
