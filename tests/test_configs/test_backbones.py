"""Each recipe of configs/backbones, from a training step to a detector."""
import glob
import os.path as osp
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from cyborgs_plugin.datasets.mask_bank import MaskBank

from ..helpers import ROOT, fake_batch, publish_backbone, write_photo

sys.path.insert(0, osp.join(ROOT, 'tools', 'model_converters'))
import check_backbone  # noqa: E402

FOLDER = osp.join(ROOT, 'configs', 'backbones')
FPN = osp.join(ROOT, 'configs', 'transfer', 'mask-rcnn_r18_fpn_random_toy.py')
ALL = dict(out_indices=(0, 1, 2, 3))
RESNET = [256, 512, 1024, 2048]
# Of each: stride of the mask layer, width of the projector, the backbone of a
# detector of mmdet, and the channels that its FPN gets.
RECIPES = dict(
    resnet101=(8, 3584, dict(type='ResNet', depth=101, **ALL), RESNET),
    resnext50=(8, 3584, dict(
        type='ResNeXt', depth=50, groups=32, base_width=4, **ALL), RESNET),
    regnetx_3200mf=(8, 1632, dict(
        type='RegNet', arch='regnetx_3.2gf', **ALL), [96, 192, 432, 1008]),
    mobilenetv2=(8, 1408, dict(
        type='mmpretrain.MobileNetV2', out_indices=(1, 2, 4, 6)),
                 [24, 32, 96, 320]),
    convnext_tiny=(8, 1440, dict(
        type='mmpretrain.ConvNeXt', arch='tiny', gap_before_final_norm=False,
        **ALL), [96, 192, 384, 768]),
    swin_tiny=(8, 1440, dict(type='SwinTransformer', **ALL),
               [96, 192, 384, 768]),
    vit_small=(16, 1536, dict(
        type='mmpretrain.VisionTransformer', arch='deit-small', patch_size=16,
        out_indices=(2, 5, 8, 11), out_type='featmap'), [384] * 4))

# Those with a recipe for their own detectors: files of configs/transfer.
DETECTORS = dict(
    rtmdet_tiny=('rtmdet_tiny', 'rtmdet-ins_tiny'),
    rtmdet_s=('rtmdet_s', ),
    yolox_s=('yolox_s', ))
WIDTHS = dict(rtmdet_tiny=672, rtmdet_s=896, yolox_s=896)


def small(name, folder):
    """The recipe on four pictures, with small views and narrow heads."""
    for number in range(4):
        write_photo(folder / 'data' / 'train2017' / f'{number}.png',
                    (48, 64), number)
    cfg = Config.fromfile(osp.join(FOLDER, f'{name}.py'))
    for view in cfg.train_dataloader.dataset.pipeline[1].transforms:
        view[0].scale = 64
    cfg.merge_from_dict({
        'model.neck.num_regions': 4,
        'model.neck.projector.hid_channels': 32,
        'model.head.predictor.hid_channels': 32,
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.dataset.data_root': str(folder / 'data'),
        'train_cfg.max_epochs': 1,
        'param_scheduler': [],
        'default_hooks.checkpoint.save_optimizer': False,
        'default_hooks.mask_update.interval': -1,
        'default_hooks.mask_update.source.num_clusters': 3,
        'default_hooks.mask_update.source.smooth': 0,
        'default_hooks.mask_update.source.reflect': 0,
        'default_hooks.mask_update.source.long_side': None,
        'work_dir': str(folder / 'run'),
        'experiment_name': f'{name}{folder.name}',
    })
    return cfg


def detector_config(folder, backbone, channels, file, prefix):
    init = dict(type='Pretrained', checkpoint=file, prefix=prefix)
    path = folder / 'detector.py'
    path.write_text(
        f'_base_ = {FPN!r}\n'
        "custom_imports = dict(imports=['mmpretrain.models'])\n"
        'model = dict(\n'
        f'    backbone=dict(_delete_=True, init_cfg={init}, **{backbone}),\n'
        f'    neck=dict(in_channels={channels}))\n')
    return str(path)


def pretrain(name, folder, stride, width):
    """Train, look at a mask round and the gradients; give the weights."""
    runner = Runner.from_cfg(small(name, folder))
    model = runner.model
    before = {k: v.clone() for k, v in model.backbone.named_parameters()}
    runner.train()
    state = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    assert any(not torch.equal(state[k], v) for k, v in before.items())

    bank = MaskBank.open(str(folder / 'run' / 'masks' / 'round_0000'))
    assert len(bank) == 4
    for key in bank.keys():
        labels = bank.label_map(key)
        assert labels.shape == (-(-48 // stride), -(-64 // stride))
        assert len(np.unique(labels)) > 1

    # Whatever has no gradient stops a training of several ranks.
    assert model.neck.projector.fc0.in_features == width
    data = model.data_preprocessor(fake_batch(batch=2, size=64), True)
    model.parse_losses(model(**data, mode='loss'))[0].backward()
    lacking = [key for key, value in model.backbone.named_parameters()
               if value.grad is None]
    assert not lacking
    return state


def assert_equal(backbone, state):
    loaded = backbone.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        if 'num_batches' not in key:
            assert torch.equal(loaded[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_from_a_step_to_a_detector(name, tmp_path, call):
    stride, width, backbone, channels = RECIPES[name]
    state = pretrain(name, tmp_path, stride, width)

    out = call(publish_backbone, tmp_path / 'run' / 'epoch_1.pth')
    file = out.split()[-1]
    prefix = 'resnet101.' if name == 'resnet101' else 'backbone.'
    assert f'init_cfg.prefix={prefix}' in out
    config = detector_config(tmp_path, backbone, channels, file, prefix)
    counted = sum('num_batches' not in key for key in state)
    assert (f'model.backbone: {counted} of {counted} tensors were loaded from '
            f'{file}') in call(check_backbone, config, '--no-data')

    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    assert_equal(detector.backbone, state)
    detector.eval()
    with torch.no_grad():
        levels = detector.extract_feat(torch.zeros(1, 3, 64, 96))
    assert len(levels) == 5
    assert levels[0].shape[2:] == (
        (4, 6) if name == 'vit_small' else (16, 24))


@pytest.mark.slow
@pytest.mark.needs('ops')
@pytest.mark.parametrize('name', DETECTORS)
def test_from_a_step_to_its_own_detectors(name, tmp_path, call, monkeypatch):
    """With mmdet's own prefix and pictures, all tensors equal."""
    state = pretrain(name, tmp_path, 8, WIDTHS[name])
    out = call(publish_backbone, tmp_path / 'run' / 'epoch_1.pth')
    file = out.split()[-1]
    monkeypatch.setenv('BACKBONE', file)
    counted = sum('num_batches' not in key for key in state)
    for detector in DETECTORS[name]:
        config = osp.join(ROOT, 'configs', 'transfer',
                          f'{detector}_cyborgs-pre_300e_coco.py')
        said = call(check_backbone, config, '--no-data')
        assert f'{counted} of {counted} tensors were loaded' in said
        assert f'bgr_to_rgb: as {file} was trained.\n' in said
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        model = MODELS.build(cfg.model)
        model.init_weights()
        assert_equal(model.backbone, state)
    with pytest.raises(SystemExit) as caught:
        call(check_backbone, config, '--no-data', '--cfg-options',
             'model.data_preprocessor.bgr_to_rgb=True')
    assert ('model.data_preprocessor.bgr_to_rgb is True, set it to False'
            in str(caught.value))


def test_none_is_forgotten():
    files = glob.glob(osp.join(FOLDER, '*.py'))
    assert {osp.basename(file)[:-len('.py')] for file in files} == {
        *RECIPES, *DETECTORS, 'timm'}  # test_timm.py
