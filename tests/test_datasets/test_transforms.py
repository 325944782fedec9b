"""Image and label map move together, pixel by pixel."""
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import TRANSFORMS

from cyborgs_plugin.datasets.transforms import (
    MaskedMultiView,
    MaskedRandomResizedCrop,
    crop_label_map,
)

from ..test_models.test_cyborgs import RECIPE


def enlarge(label_map, size):
    """Nearest neighbour by loops."""
    height, width = label_map.shape
    return np.array([[
        label_map[y * height // size[0], x * width // size[1]]
        for x in range(size[1])
    ] for y in range(size[0])])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31))
def test_sampling_the_grid_equals_sampling_the_enlarged_map(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 40, 2)
    label_map = random.integers(0, 99, (-(-height // 8), -(-width // 8)))
    box_h, box_w = random.integers(1, height + 1), random.integers(
        1, width + 1)
    top = random.integers(0, height - box_h + 1)
    left = random.integers(0, width - box_w + 1)
    full = enlarge(label_map, (height, width))
    crop = full[top:top + box_h, left:left + box_w]
    np.testing.assert_array_equal(
        crop_label_map(label_map, (height, width), (top, left, box_h, box_w),
                       (12, 9)), enlarge(crop, (12, 9)))


@pytest.mark.parametrize('seed', range(8))
def test_colours_are_the_labels(seed):
    """With nearest sampling throughout, every pixel's colour is its label."""
    random = np.random.default_rng(seed)
    label_map = random.integers(0, 256, (6, 8)).astype(np.uint8)
    image = label_map.repeat(8, 0).repeat(8, 1)[..., None].repeat(3, 2)
    pipeline = Compose([
        MaskedRandomResizedCrop(32, interpolation='nearest', backend='cv2'),
        TRANSFORMS.build(dict(type='RandomFlip', prob=0.5))
    ])
    np.random.seed(seed)
    output = pipeline(
        dict(img=image, gt_seg_map=label_map, seg_fields=['gt_seg_map']))
    assert output['img'].shape == (32, 32, 3)
    np.testing.assert_array_equal(output['img'][..., 0], output['gt_seg_map'])


def test_flip_moves_both():
    image = np.arange(16 * 3, dtype=np.uint8).reshape(4, 4, 3)
    flip = TRANSFORMS.build(dict(type='RandomFlip', prob=1.))
    output = flip(
        dict(img=image, gt_seg_map=image[..., 0], seg_fields=['gt_seg_map']))
    np.testing.assert_array_equal(output['img'][..., 0],
                                  output['gt_seg_map'])
    np.testing.assert_array_equal(output['gt_seg_map'], image[:, ::-1, 0])


def test_two_views_are_packed():
    init_default_scope('mmpretrain')
    pipeline = Compose(Config.fromfile(RECIPE).train_pipeline[1:])
    image = cv2.resize(
        np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8),
        (60, 50))
    results = dict(
        img=image,
        gt_seg_map=np.full((7, 8), 300, dtype=np.uint16),
        seg_fields=['gt_seg_map'])
    packed = pipeline(results)
    assert [view.shape for view in packed['inputs']] == [(3, 224, 224)] * 2
    mask = packed['data_samples'].mask
    assert mask.shape == (2, 224, 224) and mask.dtype == torch.int32
    assert mask.unique().tolist() == [300]


def test_views_of_the_recipe():
    views = Config.fromfile(RECIPE).train_pipeline[1].transforms
    assert len(views) == 2
    for number, view in enumerate(views):
        crop, flip, jitter, grey, blur, solarize = view
        assert crop.scale == 224
        assert tuple(crop.crop_ratio_range) == (0.08, 1.0)
        assert tuple(crop.aspect_ratio_range) == (3 / 4, 4 / 3)
        assert flip.prob == 0.5 and jitter.prob == 0.8 and grey.prob == 0.2
        jitter = jitter.transforms[0]
        assert (jitter.brightness, jitter.contrast, jitter.saturation,
                jitter.hue) == (0.4, 0.4, 0.2, 0.1)
        assert tuple(blur.magnitude_range) == (0.1, 2.0)
        assert blur.prob == (1.0, 0.1)[number]
        assert (solarize.thr, solarize.prob) == (128, (0.0, 0.2)[number])


def test_views_draw_their_own_crops():
    views = MaskedMultiView([[MaskedRandomResizedCrop(16)]], [2])
    label_map = np.arange(100).reshape(10, 10)
    output = views(
        dict(img=np.zeros((80, 80, 3), np.uint8), gt_seg_map=label_map))
    assert not np.array_equal(*output['mask'])
