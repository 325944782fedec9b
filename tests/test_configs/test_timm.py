"""Any network of timm by its name: from the key to a file that timm takes."""
import os.path as osp

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from safetensors.torch import load_file

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.mask_bank import MaskBank
from cyborgs_plugin.engine.config_options import merge_options
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT, publish_backbone, write_photo

timm = pytest.importorskip('timm')
RECIPE = osp.join(ROOT, 'configs', 'backbones', 'timm.py')
# Of each: strides, channels, layer of the masks, side of a view, and what a
# network of fixed size is made with.
FAMILIES = dict(
    mobilenetv4_conv_small=((8, 16, 32), (64, 96, 960), 'blocks.1', 64, {}),
    hgnetv2_b0=((8, 16, 32), (256, 512, 1024), 'stages.1', 64, {}),
    convnext_atto=((8, 16, 32), (80, 160, 320), 'stages.1', 64, {}),
    vit_tiny_patch16_224=((16, ) * 4, (192, ) * 4, 'blocks.8', 96,
                          dict(dynamic_img_size=True)),
    swin_tiny_patch4_window7_224=((8, 16, 32), (192, 384, 768), 'layers.1',
                                  64, dict(strict_img_size=False)))


def small(name, folder, side, **more):
    """The recipe on four pictures, with small views and narrow heads."""
    for number in range(4):
        write_photo(folder / 'photos' / f'{number}.png', (48, 64), number)
    cfg = load_config(RECIPE)
    at = 'default_hooks.mask_update'
    merge_options(cfg, {
        'timm_name': name,
        'data': str(folder / 'photos'),
        'view_size': side,
        'model.neck.num_regions': 4,
        'model.neck.projector.hid_channels': 32,
        'model.head.predictor.hid_channels': 32,
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_cfg.max_epochs': 1,
        'param_scheduler': [],
        'default_hooks.checkpoint.save_optimizer': False,
        f'{at}.interval': -1,
        f'{at}.source.num_clusters': 3,
        f'{at}.source.smooth': 0,
        f'{at}.source.reflect': 0,
        f'{at}.source.long_side': None,
        **more
    }, work_dir=str(folder / 'run'))
    cfg.experiment_name = f'{name}{folder.name}'
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_from_a_name_to_a_file_of_timm(name, tmp_path, call):
    strides, channels, layer, side, fixed = FAMILIES[name]
    cfg = small(name, tmp_path, side)
    assert cfg.default_hooks.mask_update.source.layer == f'network.{layer}'
    runner = Runner.from_cfg(cfg)
    model = runner.model
    network = model.backbone.network
    before = {k: v.clone() for k, v in network.named_parameters()}
    runner.train()
    state = {k: v.clone() for k, v in network.state_dict().items()}
    moved = [k for k, v in before.items() if not torch.equal(state[k], v)]
    assert len(moved) > len(before) // 2
    assert model.neck.projector.fc0.in_features == sum(channels)
    bank = MaskBank.open(str(tmp_path / 'run' / 'masks' / 'round_0000'))
    cells = bank.label_map('0.png')
    assert cells.shape == (48 // 8, 64 // 8)  # of superpixels, any network
    assert len(np.unique(cells)) > 1

    out = call(publish_backbone, tmp_path / 'run' / 'epoch_1.pth')
    assert f'timm.create_model({name!r}, num_classes=0' in out
    file, = map(str, (tmp_path / 'run').glob('*.safetensors'))
    loaded = timm.create_model(name, num_classes=0, checkpoint_path=file)
    assert loaded.state_dict().keys() == state.keys()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key]), key
    whole = timm.create_model(name)
    found = whole.load_state_dict(load_file(file), strict=False)
    classifier = whole.pretrained_cfg['classifier']
    assert not found.unexpected_keys and found.missing_keys == [
        f'{classifier}.weight', f'{classifier}.bias']

    # in a detector: timm's own pyramid, as its users make it
    body = timm.create_model(
        name, features_only=True, out_indices=model.backbone.out_indices,
        pretrained=True, pretrained_cfg_overlay=dict(file=file), **fixed)
    body.eval()
    model.backbone.eval()
    images = torch.randn(1, 3, 96, 128, generator=torch.manual_seed(0))
    with torch.no_grad():
        for ours, theirs, stride, width in zip(
                model.backbone(images), body(images), strides, channels):
            if theirs.shape[1] != width:
                theirs = theirs.permute(0, 3, 1, 2)
            assert ours.shape == (1, width, -(-96 // stride),
                                  -(-128 // stride))
            assert (ours - theirs).abs().max() == 0.

    if name != 'hgnetv2_b0':
        return
    # and the same file starts another run
    again = small(name, tmp_path / 'again', side, **{
        'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=file)})
    runner = Runner.from_cfg(again)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    runner._init_model_weights()
    for key, value in runner.model.backbone.network.state_dict().items():
        assert 'num_batches' in key or torch.equal(value, state[key]), key


def complete(text, folder, options=()):
    path = folder / 'mine.py'
    path.write_text(text)
    cfg = load_config(str(path))
    merge_options(cfg, dict(options))
    return cfg


def test_the_key_is_inherited(tmp_path):
    cfg = complete(
        f"_base_ = {RECIPE!r}\ntimm_name = 'convnext_atto'\n"
        'model = dict(neck=dict(grid_stride=4))\n', tmp_path)
    assert cfg.model.backbone == dict(
        type='TimmNetwork', model_name='convnext_atto', out_indices=(1, 2, 3))
    assert cfg.model.neck.in_indices == (0, 1, 2)
    assert cfg.model.neck.grid_stride == 4  # set by hand
    assert cfg.default_hooks.mask_update.source.layer == 'network.stages.1'
    before = cfg.to_dict()
    merge_options(cfg, {})  # as for the config that a run has dumped
    assert cfg.to_dict() == before
    merge_options(cfg, dict(timm_name='vit_tiny_patch16_224'))
    assert cfg.model.backbone.out_indices == (2, 5, 8, 11)
    assert cfg.model.neck.in_indices == (0, 1, 2, 3)
    assert cfg.model.neck.grid_stride == 16
    assert cfg.default_hooks.mask_update.source.layer == 'network.blocks.8'
    assert cfg.model.data_preprocessor.mean == [127.5] * 3  # of its weights


def test_the_key_changes_any_recipe(tmp_path):
    cfg = complete(
        f'_base_ = {ROOT + "/configs/backbones/convnext_tiny.py"!r}\n',
        tmp_path, {'timm_name': 'vit_tiny_patch16_224',
                   'model.neck.in_indices': [1, 3]})
    assert cfg.model.backbone == dict(
        type='TimmNetwork', model_name='vit_tiny_patch16_224',
        out_indices=(2, 5, 8, 11))
    assert cfg.model.neck.in_indices == [1, 3]
    assert cfg.model.neck.grid_stride == 16  # of views of 224 pixels
    assert cfg.optim_wrapper.clip_grad.max_norm == 3.
    assert cfg.sync_bn is None
    start = ROOT + '/configs/cyborgs_continue.py'
    cfg = complete(f'_base_ = {start!r}\n', tmp_path, {
        'timm_name': 'resnet18', 'model.backbone.init_cfg.checkpoint': 'x'})
    assert cfg.model.backbone.norm_eval
    assert cfg.model.backbone.init_cfg.checkpoint == 'x'
    assert 'depth' not in cfg.model.backbone


@pytest.mark.parametrize('options, said', [
    (dict(timm_name='mobilenetv5_small'), 'did you mean mobilenetv3_small'),
    (dict(timm_name='no_such_thing'), r'timm.list_models\(\) has all'),
    (dict(timm_name=18), 'timm_name=18.*expected the name of a network'),
    (dict(timm_name='coatnet_pico_rw_224', view_size=96),
     'not accept views of 96 pixels.*set view_size=224'),
    (dict(timm_name='hf-hub:timm/resnet18'), 'has no network'),
    (dict(timm_names='resnet18'), "did you mean timm_name"),
])
def test_mistakes_are_named(options, said, tmp_path):
    with pytest.raises(UserError, match=said):
        complete(f'_base_ = {RECIPE!r}\n', tmp_path, options)
    with pytest.raises(UserError, match='whose model is CYBORGS'):
        complete("timm_name = 'resnet18'\nmodel = dict(type='BYOL')\n",
                 tmp_path)


def test_without_the_tools_it_is_refused():
    """Else a run would train another network than the key says."""
    from mmpretrain.registry import MODELS
    cfg = Config.fromfile(RECIPE)
    with pytest.raises(UserError, match='model_name is not set.*timm_name'):
        MODELS.build(cfg.model)
