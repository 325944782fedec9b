"""Every config builds; each ablation differs in what it says."""
import glob
import os.path as osp

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
FILES = sorted(
    osp.relpath(path, ROOT)
    for path in glob.glob(osp.join(ROOT, 'configs', '**', '*.py'),
                          recursive=True))
PRETRAINING = [
    name for name in FILES
    if '_base_' not in name and 'transfer' not in name
]
TRANSFER = [name for name in FILES if 'transfer' in name]


def test_there_are_configs():
    assert 'configs/cyborgs_coco.py' in PRETRAINING and TRANSFER


@pytest.mark.parametrize('name', FILES)
def test_reads(name):
    assert len(Config.fromfile(osp.join(ROOT, name)))


@pytest.mark.parametrize('name', PRETRAINING)
def test_pretraining_config_builds(name):
    cfg = Config.fromfile(osp.join(ROOT, name))
    assert cfg.custom_imports.imports == ['cyborgs_plugin']
    init_default_scope(cfg.default_scope)
    MODELS.build(cfg.model)
    for transform in cfg.train_dataloader.dataset.pipeline:
        TRANSFORMS.build(transform)


@pytest.mark.parametrize('name', TRANSFER)
def test_transfer_config_builds_and_imports_nothing_of_ours(name):
    pytest.importorskip('mmdet', reason='the extra "transfer" is missing')
    from mmdet.registry import MODELS as DETECTORS
    from mmdet.utils import register_all_modules
    register_all_modules()
    with open(osp.join(ROOT, name)) as file:
        assert 'custom_imports' not in file.read()
    cfg = Config.fromfile(osp.join(ROOT, name))
    cfg.model.backbone.init_cfg = None
    DETECTORS.build(cfg.model)


def test_twins_differ_in_init_cfg_alone():
    stem = osp.join(ROOT, 'configs', 'transfer', 'mask-rcnn_r18_fpn_{}_toy.py')
    one, two = (Config.fromfile(stem.format(name)).to_dict()
                for name in ('cyborgs-pre', 'random'))
    assert one['model']['backbone'].pop('init_cfg')['type'] == 'Pretrained'
    assert two['model']['backbone'].pop('init_cfg') is None
    assert one == two


def test_numbers_of_the_recipe():
    cfg = Config.fromfile(osp.join(ROOT, 'configs', 'cyborgs_coco.py'))
    model, update = cfg.model, cfg.default_hooks.mask_update
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_epochs == 800 and cfg.sync_bn == 'torch'
    assert model.target_ema == dict(
        type='ExponentialMovingAverage', momentum=0.004)
    assert model.neck.num_regions == 16 and model.neck.grid_stride == 32
    assert model.head.loss.temperature == 0.1
    assert model.head.segmentation_loss.loss_weight == 0
    for mlp, width in ((model.neck.projector, 3584),
                       (model.head.predictor, 256)):
        assert (mlp.in_channels, mlp.hid_channels,
                mlp.out_channels) == (width, 4096, 256)
        assert mlp.with_bias and mlp.with_last_bias and not mlp.with_last_bn
    assert (update.interval, update.group_size) == (100, 16)
    assert update.source == dict(
        type='NetworkMasks',
        layer='layer2.2',
        num_clusters=(2, 256),
        num_iters=20)
    assert cfg.optim_wrapper.type == 'OptimWrapper'  # no AMP
