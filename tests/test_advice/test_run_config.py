"""The configs that are written, read again and examined."""
from importlib.util import find_spec

import pytest
from mmengine.config import Config

from cyborgs_plugin.advice.networks import known_networks
from cyborgs_plugin.advice.run_config import (
    config_text,
    refuse_changed,
    write_config,
)
from cyborgs_plugin.advice.settings import examine_config
from cyborgs_plugin.engine.config_options import complete_loaders
from cyborgs_plugin.errors import UserError

from .test_plan import CPU, GPU, plan_of

CASES = dict(
    few=dict(number=300), some=dict(number=3000), many=dict(
        number=30_000, looked=9),
    published=dict(number=118_000, looked=9, machine=GPU, processes=8),
    one_epoch=dict(number=3000, budget=400.),
    two_epochs=dict(number=3000, budget=600.),
    start=dict(number=3000, start='/w.pth'))

NETWORKS = known_networks() + [
    f'timm:{name}' for name in ('hgnetv2_b0', 'convnext_atto')
    if find_spec('timm')]


def plan(case, network='resnet50'):
    return plan_of(**dict(dict(machine=CPU), **CASES[case]), network=network)


def read(text, folder):
    path = folder / 'config.py'
    path.write_text(text)
    cfg = Config.fromfile(str(path))
    complete_loaders(cfg)
    return cfg


@pytest.mark.parametrize('case, network', [
    (case, network) for network in NETWORKS for case in CASES
    if network in ('resnet18', 'resnet50')
    or case in ('some', 'published', 'start')])
def test_the_doctor_finds_nothing_in_what_is_written(case, network, tmp_path):
    made = plan(case, network)
    cfg = read(config_text(made), tmp_path)
    processes = made.processes
    wrong = [one for one in examine_config(cfg, processes)
             if one.severity != 'ok']
    # K of the published recipe is more than its views have cells
    assert not [one for one in wrong
                if made.row.batch != 128 or 'num_clusters' not in one.found]
    assert cfg.train_cfg.max_epochs == made.epochs
    assert cfg.train_dataloader.batch_size * processes == made.batch
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(made.rate)
    assert cfg.default_hooks.mask_update.interval == made.interval
    prefix = cfg.train_dataloader.dataset.data_prefix
    assert prefix.img_path == '/photos'
    view = cfg.train_dataloader.dataset.pipeline[1].transforms
    assert [one[0].scale for one in view] == [made.row.view] * 2
    assert cfg.model.neck.grid_stride == (
        16 if network == 'vit_small' else made.row.stride)
    assert all(len(line) < 80 for line in config_text(made).splitlines()
               if '#' not in line)


@pytest.mark.needs('ops')
def test_pictures_come_as_the_detector_has_them(tmp_path):
    cfg = read(config_text(plan('some', 'rtmdet_tiny')), tmp_path)
    assert cfg.model.backbone.type == 'mmdet.CSPNeXt'
    assert cfg.model.data_preprocessor.mean == [103.53, 116.28, 123.675]
    assert cfg.model.data_preprocessor.to_rgb is False
    assert cfg.custom_imports.imports == ['cyborgs_plugin', 'mmdet.models']


def test_a_backbone_of_a_recipe_comes_with_what_it_needs(tmp_path):
    cfg = read(config_text(plan('some', 'convnext_tiny')), tmp_path)
    assert cfg.model.backbone.type == 'ConvNeXt' and (
        'depth' not in cfg.model.backbone)
    assert cfg.model.neck.in_indices == (0, 1, 2, 3)
    assert cfg.default_hooks.mask_update.source.layer == 'stages.1'
    assert cfg.default_hooks.mask_update.source.smooth == 32
    assert cfg.optim_wrapper.clip_grad.max_norm == 3
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05


def test_a_network_of_timm_comes_with_what_it_needs(tmp_path):
    pytest.importorskip('timm')
    cfg = read(config_text(plan('start', 'timm:convnext_atto')), tmp_path)
    assert cfg.model.backbone == dict(
        type='TimmNetwork', model_name='convnext_atto', norm_eval=True,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='/w.pth'))
    assert cfg.default_hooks.mask_update.source.layer == 'network.stages.1'
    assert cfg.optim_wrapper.clip_grad.max_norm == 3 and cfg.sync_bn is None
    cfg = read(config_text(plan('some', 'timm:vit_tiny_patch16_224')),
               tmp_path)
    assert cfg.model.data_preprocessor.mean == [127.5] * 3
    assert cfg.model.neck.in_indices == (0, 1, 2, 3)
    cfg = read(config_text(plan('some', 'timm:hgnetv2_b0')), tmp_path)
    assert 'clip_grad' not in cfg.optim_wrapper  # it has batch norms


@pytest.mark.parametrize('network', ['resnet18', 'resnet50', 'mobilenetv2',
                                     'vit_small'])
def test_a_start_is_kept_near(network, tmp_path):
    cfg = read(config_text(plan('start', network)), tmp_path)
    assert cfg.model.backbone.init_cfg.checkpoint == '/w.pth'
    assert cfg.model.target_ema.type == 'FrozenTarget'
    assert bool(cfg.model.backbone.get('norm_eval')) == (
        network != 'vit_small')
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert keys.backbone.lr_mult == 0.1


def test_a_gpu_holds_the_photographs(tmp_path):
    made = plan_of(3000, GPU)
    cfg = read(config_text(made), tmp_path)
    assert cfg.default_hooks.device_data.type == 'DeviceDataHook'
    assert cfg.train_dataloader.num_workers == 0


def test_a_config_can_inherit_from_it(tmp_path):
    read(config_text(plan('many')), tmp_path)
    (tmp_path / 'child.py').write_text(
        "_base_ = 'config.py'\ntrain_cfg = dict(max_epochs=7)\n")
    cfg = Config.fromfile(str(tmp_path / 'child.py'))
    assert cfg.train_cfg.max_epochs == 7
    assert cfg.model.target_ema.momentum == 0.004
    view = cfg.train_dataloader.dataset.pipeline[1].transforms[0]
    assert view[0].scale == 128 and view[4].magnitude_range == (0.1, 1.1)


def test_a_changed_config_is_not_replaced(tmp_path):
    path = str(tmp_path / 'config.py')
    refuse_changed(path)  # there is none
    write_config(plan('some'), path)
    write_config(plan('few'), path)  # as it was written
    text = (tmp_path / 'config.py').read_text()
    (tmp_path / 'config.py').write_text(text.replace('lr=', 'lr=2*'))
    with pytest.raises(UserError, match='was changed by hand'):
        write_config(plan('some'), path)
    (tmp_path / 'config.py').write_text('# mine\n')
    with pytest.raises(UserError, match='was changed by hand'):
        refuse_changed(path)
