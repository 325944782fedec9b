"""What the baselines share, so that their scores can be compared."""
import copy
import glob
import os.path as osp

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import TRANSFORMS

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
FILES = sorted(glob.glob(osp.join(ROOT, 'configs', 'baselines', '*.py')))
NAMES = [osp.basename(file).split('_r18')[0] for file in FILES]
COMPARED = [file for file in FILES if 'continue' not in file]
SHARED = Config.fromfile(osp.join(ROOT, 'configs', 'cyborgs_small_data.py'))


@pytest.fixture(
    params=COMPARED,
    ids=[osp.basename(file).split('_r18')[0] for file in COMPARED])
def cfg(request):
    return Config.fromfile(request.param)


def test_there_are_all():
    assert sorted(NAMES) == ['byol', 'continue', 'cyborgs', 'cyborgs-cells',
                             'cyborgs-in-step', 'cyborgs-oracle', 'densecl',
                             'detcon-fh', 'distill', 'superpixels']


def test_budget_and_optimiser_are_shared(cfg):
    for key in ('param_scheduler', 'train_cfg', 'randomness'):
        assert cfg[key] == SHARED[key], key
    wrapper = cfg.optim_wrapper.to_dict()
    # the rate alone was chosen for each (docs/results.md)
    rates = dict(byol=3e-4, densecl=3e-4)
    name = osp.basename(cfg.filename).split('_r18')[0]
    assert wrapper['optimizer']['lr'] == rates.get(name, 1e-3)
    wrapper['optimizer']['lr'] = SHARED.optim_wrapper.optimizer.lr
    assert wrapper == SHARED.optim_wrapper.to_dict()
    loader, shared = dict(cfg.train_dataloader), dict(SHARED.train_dataloader)
    loader.pop('dataset')
    shared.pop('dataset')
    assert loader == shared
    backbones = [dict(c.model.backbone) for c in (cfg, SHARED)]
    for backbone in backbones:
        backbone.pop('out_indices', None)
    assert backbones[0] == backbones[1]
    # ours normalises alike, and moves label maps as well
    assert dict(cfg.model.data_preprocessor, type='') == dict(
        SHARED.model.data_preprocessor, type='')


def test_views_are_the_same_pixels(cfg):
    """The same draws give the same two views, with masks or without."""
    init_default_scope('mmpretrain')
    image = np.random.default_rng(0).integers(
        0, 256, (120, 160, 3), dtype=np.uint8)
    views = []
    for config in (cfg, SHARED):
        pipeline = copy.deepcopy(config.train_dataloader.dataset.pipeline)
        transform = TRANSFORMS.build(pipeline[1])
        np.random.seed(3)
        import random
        random.seed(3)
        views.append(transform(dict(
            img=image.copy(), img_shape=image.shape[:2],
            gt_seg_map=np.zeros((15, 20), np.uint8),
            seg_fields=['gt_seg_map']))['img'])
    for mine, shared in zip(*views):
        assert mine.shape == (96, 96, 3)
        assert (mine == shared).all()


def test_only_the_source_of_masks_differs():
    base = SHARED.to_dict()
    for name in ('cyborgs', 'detcon-fh', 'cyborgs-oracle', 'superpixels'):
        cfg = Config.fromfile(FILES[NAMES.index(name)]).to_dict()
        assert cfg['model'] == base['model']
        update = cfg['default_hooks']['mask_update']
        if name != 'cyborgs':
            assert update['interval'] == -1
            assert update['source']['type'] != 'NetworkMasks'


def test_only_what_is_clustered_differs():
    """Cells, or superpixels without features; K is drawn alike."""
    base = SHARED.to_dict()
    cfg = Config.fromfile(FILES[NAMES.index('cyborgs-cells')]).to_dict()
    update = cfg['default_hooks']['mask_update']
    cells = update['source']
    ours = base['default_hooks']['mask_update']['source']
    assert ours['superpixels'] and 'superpixels' not in cells
    changed = {key for key in {*cells, *ours}
               if cells.get(key) != ours.get(key)}
    assert changed == {'superpixels', 'linkage', 'position_weight',
                       'colour_weight', 'plain_weight', 'num_iters'}
    assert update['group_size'] == 16
    update.update(source=ours, group_size=1)
    assert cfg == base
    alone = Config.fromfile(FILES[NAMES.index('superpixels')])
    update = alone.default_hooks.mask_update
    assert update.source.num_clusters == ours['num_clusters']
    assert update.source.linkage == ours['linkage']
    assert update.group_size == 1


def test_masks_in_the_step_change_nothing_else():
    base = SHARED.to_dict()
    cfg = Config.fromfile(FILES[NAMES.index('cyborgs-in-step')]).to_dict()
    assert cfg['model'].pop('in_step_masks')['type'] == 'InStepMasks'
    assert cfg['train_dataloader']['dataset'].pop('with_masks') is False
    assert base['default_hooks'].pop('mask_update')
    assert cfg == base
