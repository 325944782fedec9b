"""The embedded data set: exact, deterministic, not separable by colour."""
import json
import os

import numpy as np
import pytest
from pycocotools.coco import COCO

from cyborgs_plugin.datasets import read_image
from cyborgs_plugin.datasets.toy_scenes import (
    CATEGORIES,
    _photographs,
    draw_scene,
    make_toy_scenes,
)
from cyborgs_plugin.evaluation import MaskQuality, color_kmeans


def contents(root):
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, 'rb') as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = str(tmp_path_factory.mktemp('toy') / 'scenes')
    made = make_toy_scenes(root, num_train=6, num_val=4)
    assert made['train2017 images'] == 6 and made['val2017 images'] == 4
    return root


def test_same_seed_same_bytes(scenes, tmp_path):
    again = str(tmp_path / 'a')
    make_toy_scenes(again, num_train=6, num_val=4)
    assert contents(scenes) == contents(again)
    other = str(tmp_path / 'b')
    make_toy_scenes(other, seed=1, num_train=6, num_val=4)
    assert contents(scenes) != contents(other)


def test_repeating_is_harmless_and_other_content_is_refused(scenes, tmp_path):
    before = contents(scenes)
    assert make_toy_scenes(scenes, num_train=6, num_val=4) == {}
    assert contents(scenes) == before
    with pytest.raises(FileExistsError, match='scenes'):
        make_toy_scenes(scenes, seed=3, num_train=6, num_val=4)
    (tmp_path / 'mine.txt').write_text('x')
    with pytest.raises(FileExistsError):
        make_toy_scenes(str(tmp_path))


@pytest.mark.parametrize('split', ['train2017', 'val2017', 'real'])
def test_json_is_exact(scenes, split):
    coco = COCO(os.path.join(scenes, 'annotations',
                             f'instances_{split}.json'))
    folder = 'train2017' if split == 'real' else split
    covered = {}
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        info = coco.imgs[annotation['image_id']]
        image = read_image(os.path.join(scenes, folder, info['file_name']))
        assert mask.shape == image.shape[:2]
        assert mask.sum() == annotation['area'] > 0
        rows, cols = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert annotation['bbox'] == [
            cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1
        ]
        covered[info['id']] = covered.get(info['id'], 0) + mask
    if split == 'real':
        assert len(coco.anns) == 27
    else:  # visible parts do not overlap
        assert all(count.max() == 1 for count in covered.values())


def test_categories_and_masks_of_a_scene():
    textures = _photographs()[0]
    seen = set()
    for seed in range(12):
        image, labels, kinds = draw_scene(
            np.random.default_rng(seed), textures, (128, 160), False)
        assert image.shape[:2] == labels.shape and image.dtype == np.uint8
        assert sorted(np.unique(labels)) == list(range(len(kinds) + 1))
        seen |= {CATEGORIES[kind] for kind in kinds}
    assert seen == set(CATEGORIES)


def overlap_of_colour(root):
    metric = MaskQuality(
        os.path.join(root, 'annotations', 'instances_val2017.json'),
        key_prefix='val2017/')
    maps = [(key, color_kmeans(read_image(os.path.join(root, key)), 8))
            for key in metric.keys()]
    return metric.evaluate_maps(maps, len(maps))['masks/mBO']


def test_colour_does_not_segment_them(scenes, tmp_path):
    flat = str(tmp_path / 'flat')
    make_toy_scenes(flat, num_train=0, num_val=4, flat=True)
    assert overlap_of_colour(scenes) < 0.35 < 0.5 < overlap_of_colour(flat)


def test_splits_name_different_pictures(scenes):
    pictures = []
    for split in ('train2017', 'val2017'):
        path = os.path.join(scenes, 'annotations', f'instances_{split}.json')
        with open(path) as file:
            names = [i['file_name'] for i in json.load(file)['images']]
        pictures.append({
            read_image(os.path.join(scenes, split, name)).tobytes()
            for name in names
        })
    assert not pictures[0] & pictures[1]
