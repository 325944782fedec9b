"""Every config builds; each ablation differs in what it says."""
import ast
import glob
import os.path as osp
import re

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS

from cyborgs_plugin.engine.config_checks import check_keys
from cyborgs_plugin.engine.config_options import merge_options

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))

FILES = sorted(
    osp.relpath(path, ROOT)
    for path in glob.glob(osp.join(ROOT, 'configs', '**', '*.py'),
                          recursive=True))
# inherit from mmdet and mmseg, which need the ops of mmcv
DOWNSTREAM = re.compile('(mask|faster)-rcnn|dino-|f[cp]n[-_]|rtmdet|yolox')
PRETRAINING = [
    name for name in FILES
    if '_base_' not in name and 'transfer' not in name
]
BUILT = set()


def test_there_are_configs():
    assert 'configs/cyborgs_coco.py' in PRETRAINING




def marked(names):
    return [
        pytest.param(name, marks=pytest.mark.needs('ops'))
        if DOWNSTREAM.match(osp.basename(name)) else name for name in names]


@pytest.mark.parametrize('name', marked(FILES))
def test_reads(name):
    cfg = Config.fromfile(osp.join(ROOT, name))
    assert len(cfg)
    check_keys(cfg)


@pytest.mark.parametrize('name', FILES)
def test_bases_come_before_imports(name):
    """Else the original mmengine takes them for configs of pure Python."""
    with open(osp.join(ROOT, name)) as file:
        body = ast.parse(file.read()).body
    kinds = [
        'import' if isinstance(node, ast.Import | ast.ImportFrom) else
        getattr(node.targets[0], 'id', '') for node in body
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Assign)
    ]
    if 'import' in kinds:
        assert '_base_' in kinds[:kinds.index('import')]


@pytest.mark.parametrize('name', marked(PRETRAINING))
def test_pretraining_config_builds(name):
    cfg = Config.fromfile(osp.join(ROOT, name))
    assert cfg.custom_imports.imports[0] == 'cyborgs_plugin'
    init_default_scope(cfg.default_scope)
    if 'timm_name' in cfg:  # tools/train.py makes a backbone of it
        pytest.importorskip('timm')
        merge_options(cfg, {})
    # Most ablations leave the model alone: build each different one once.
    if str(cfg.model) not in BUILT:
        MODELS.build(cfg.model)
    for transform in cfg.train_dataloader.dataset.pipeline:
        TRANSFORMS.build(transform)
    BUILT.add(str(cfg.model))


@pytest.mark.parametrize('name, changes', [
    ('published_empty_regions', {
        'model.neck.type': 'PublishedMaskGroundedNeck',
        'model.neck.empty_regions': True,
        'model.neck.num_ids': 256
    }),
    ('published_bn_per_slot', {
        'model.neck.type': 'PublishedMaskGroundedNeck',
        'model.neck.project_by_slot': True,
        'model.head.type': 'PublishedMaskContrastHead'
    }),
    ('published_81_ids', {
        'model.neck.type': 'PublishedMaskGroundedNeck',
        'model.neck.num_ids': 81
    }),
])
def test_ablation_differs_in_the_stated_keys_only(name, changes):
    path = osp.join(ROOT, 'configs', 'ablations', f'{name}.py')
    with open(path) as file:
        assert len(file.readlines()) <= 15
    expected = Config.fromfile(osp.join(ROOT, 'configs', 'cyborgs_coco.py'))
    for key, value in changes.items():
        _, part, name = key.split('.')
        assert expected.model[part].get(name) != value, key
    expected.merge_from_dict(changes)
    assert Config.fromfile(path).to_dict() == expected.to_dict()


def test_numbers_of_the_recipe():
    cfg = Config.fromfile(osp.join(ROOT, 'configs', 'cyborgs_coco.py'))
    model, update = cfg.model, cfg.default_hooks.mask_update
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_epochs == 800 and cfg.sync_bn == 'torch'
    assert model.target_ema == dict(
        type='ForeachEMA', momentum=0.004)
    assert model.neck.num_regions == 16 and model.neck.grid_stride == 32
    assert model.head.loss.temperature == 0.1
    assert model.head.segmentation_loss.loss_weight == 0
    # the width of ResNet-50 is asked of it
    for mlp, width in ((model.neck.projector, None),
                       (model.head.predictor, 256)):
        assert (mlp.get('in_channels'), mlp.hid_channels,
                mlp.out_channels) == (width, 4096, 256)
        assert mlp.with_bias and mlp.with_last_bias and not mlp.with_last_bn
    assert (update.interval, update.group_size) == (100, 16)
    assert update.source == dict(
        type='NetworkMasks',
        layer='layer2.2',
        num_clusters=(2, 256),
        num_iters=20)
    assert cfg.optim_wrapper.type == 'OptimWrapper'  # no AMP
