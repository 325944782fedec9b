"""MaskUpdateHook logs the quality of each round."""
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.mask_bank import round_path
from cyborgs_plugin.evaluation import MaskQuality

from ..helpers import small_run


def test_each_round_is_scored_and_logged(photo_root, tmp_path):
    square = np.zeros((48, 64), np.uint8, order='F')
    square[10:40, 10:40] = 1
    rle = coco_mask.encode(square)
    rle['counts'] = rle['counts'].decode()
    ann_file = tmp_path / 'instances_train2017.json'
    ann_file.write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i:02d}.png', height=48, width=64)
                for i in (1, 2)],
        annotations=[dict(id=i, image_id=i, category_id=1, area=900.,
                          iscrowd=0, segmentation=rle) for i in (1, 2)],
        categories=[dict(id=1, name='square')])))
    evaluator = dict(type='MaskQuality', ann_file=str(ann_file),
                     key_prefix='train2017/')
    small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 2,
        'default_hooks.mask_update.evaluator': evaluator
    }).train()
    [file] = (tmp_path / 'w').glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    logged = [line for line in logged if 'masks/mBO' in line]
    assert [line['step'] for line in logged] == [0, 3]
    metric = MaskQuality(str(ann_file), 'train2017/')
    for number, line in enumerate(logged):
        bank = MaskBank.open(round_path(str(tmp_path / 'w/masks'), number))
        assert line['masks/mBO'] == metric.evaluate_bank(bank)['masks/mBO']


def test_missing_annotations_are_found_before_the_work(photo_root, tmp_path):
    with pytest.raises(FileNotFoundError, match='gone.json'):
        small_run(photo_root, tmp_path / 'w', **{
            'default_hooks.mask_update.evaluator': dict(
                type='MaskQuality', ann_file='gone.json')
        })
