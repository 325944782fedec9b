"""Ablations of the masks: one knob a file, and each source can be built."""
import glob
import os.path as osp

import pytest
from mmengine.config import Config
from mmpretrain.registry import HOOKS, TASK_UTILS

from cyborgs_plugin.segmentation import FelzenszwalbMasks, GridMasks

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
PATTERN = osp.join(ROOT, 'configs', 'ablations', 'masks_{}.py')
NETWORK = dict(
    type='NetworkMasks',
    layer='layer2.2',
    num_clusters=(2, 256),
    num_iters=20)
COCO = 'data/coco/annotations/instances_train2017.json'
ONE_KNOB = {
    'k32': dict(source=NETWORK | dict(num_clusters=32)),
    'k129': dict(source=NETWORK | dict(num_clusters=129)),
    'k2-32': dict(source=NETWORK | dict(num_clusters=(2, 32))),
    'layer3': dict(source=NETWORK | dict(layer='layer3.5')),
    'group1': dict(group_size=1),
    'group64': dict(group_size=64),
    'format1': dict(bank_format=1),
    'pca64': dict(source=NETWORK | dict(pca_dim=64)),
    'position': dict(source=NETWORK | dict(position_weight=0.5)),
    'colour': dict(source=NETWORK | dict(colour_weight=0.5)),
    'superpixels': dict(
        source=NETWORK | dict(superpixels=dict(type='Felzenszwalb'))),
    'reflect': dict(source=NETWORK | dict(reflect=32)),
    'smooth': dict(source=NETWORK | dict(smooth=32)),
    'long-side320': dict(source=NETWORK | dict(long_side=320)),
    'iters5': dict(source=NETWORK | dict(num_iters=5)),
    'kmeanspp': dict(source=NETWORK | dict(kmeans_init='k-means++')),
    'clusterings4': dict(source=NETWORK | dict(num_clusterings=4)),
    'faiss': dict(source=NETWORK | dict(backend='faiss')),
    'bfloat16': dict(source=NETWORK | dict(dtype='bfloat16')),
    'initial-felzenszwalb': dict(
        initial=dict(
            type='FelzenszwalbMasks', scale=1000, sigma=0.8, min_size=1000)),
    'initial-grid': dict(initial=dict(type='GridMasks', grid=(4, 4))),
    'initial-checkpoint': dict(
        initial=NETWORK | dict(checkpoint='work_dirs/backbone.pth')),
    'annotated': dict(
        interval=-1,
        source=dict(
            type='AnnotatedMasks', ann_file=COCO, key_prefix='train2017/')),
    'bank': dict(
        interval=-1,
        source=dict(
            type='BankMasks',
            path='work_dirs/cyborgs_coco/masks/round_0007')),
}


def test_every_file_is_here():
    files = {osp.basename(path) for path in glob.glob(PATTERN.format('*'))}
    assert files == {f'masks_{name}.py' for name in ONE_KNOB}


@pytest.mark.parametrize('name', ONE_KNOB)
def test_differs_from_the_recipe_in_one_knob(name):
    with open(PATTERN.format(name)) as file:
        assert len(file.readlines()) <= 15
    found = Config.fromfile(PATTERN.format(name)).to_dict()
    expected = Config.fromfile(
        osp.join(ROOT, 'configs', 'cyborgs_coco.py')).to_dict()
    assert expected['default_hooks']['mask_update']['source'] == NETWORK
    expected['default_hooks']['mask_update'].update(ONE_KNOB[name])
    assert found == expected
    update = found['default_hooks']['mask_update']
    hook = HOOKS.build(update)
    if name in ('annotated', 'bank'):  # which need their data
        with pytest.raises(FileNotFoundError, match='masks|annotations'):
            TASK_UTILS.build(hook.source_cfg)
    else:
        TASK_UTILS.build(hook.source_cfg)
        TASK_UTILS.build(hook.initial_cfg)


def test_detcon_and_grid_defaults_agree_with_the_files():
    assert vars(FelzenszwalbMasks()) == dict(
        scale=1000, sigma=0.8, min_size=1000)
    assert vars(GridMasks()) == dict(grid=(4, 4))
