"""Image and label map move together, pixel by pixel."""
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
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

from ..helpers import RECIPE


def nearest(label_map, size, centre):
    """Resize by loops: what lies under the corner or centre of a pixel."""
    shift = Fraction(1, 2) if centre else 0
    rows, cols = ([
        int((i + shift) * Fraction(old, new)) for i in range(new)
    ] for old, new in zip(label_map.shape, size))
    return np.array([[label_map[row, col] for col in cols] for row in rows])


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
    full = nearest(label_map, (height, width), centre=False)
    # the enlargement is torch's
    np.testing.assert_array_equal(
        full,
        F.interpolate(
            torch.from_numpy(label_map)[None, None].double(),
            (int(height), int(width)))[0, 0])
    crop = full[top:top + box_h, left:left + box_w]
    sampled = crop_label_map(label_map, (height, width),
                             (top, left, box_h, box_w), (12, 9))
    np.testing.assert_array_equal(sampled,
                                  nearest(crop, (12, 9), centre=True))
    if box_w % 2:  # an even crop may tie, and its mirror image then differs
        mirrored = crop_label_map(
            np.fliplr(full), (height, width),
            (top, width - left - box_w, box_h, box_w), (12, 9))
        np.testing.assert_array_equal(np.fliplr(mirrored), sampled)


@pytest.mark.parametrize('seed', range(8))
def test_colours_are_the_labels(seed):
    """With nearest sampling throughout, every pixel's colour is its label.

    The image is Pillow's work, as in the recipe.
    """
    random = np.random.default_rng(seed)
    label_map = random.integers(0, 256, (12, 16)).astype(np.uint8)
    image = label_map.repeat(8, 0).repeat(8, 1)[..., None].repeat(3, 2)
    pipeline = Compose([
        MaskedRandomResizedCrop(64, interpolation='nearest', backend='pillow'),
        TRANSFORMS.build(dict(type='RandomFlip', prob=0.5))
    ])
    np.random.seed(seed)
    output = pipeline(
        dict(img=image, gt_seg_map=label_map, seg_fields=['gt_seg_map']))
    assert output['img'].shape == (64, 64, 3)
    np.testing.assert_array_equal(output['img'][..., 0], output['gt_seg_map'])


def test_batches_of_the_recipe():
    """Shuffled, and of one size on all ranks, as the loss needs."""
    loader = Config.fromfile(RECIPE).train_dataloader
    assert loader.drop_last and loader.sampler.shuffle
    assert loader.sampler == dict(type='SceneSampler', shuffle=True)


def test_each_view_has_its_own_label_map():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (64, 64), dtype=np.uint8)
    views = MaskedMultiView([[
        MaskedRandomResizedCrop(32, interpolation='nearest', backend='pillow'),
        TRANSFORMS.build(dict(type='RandomFlip', prob=prob))
    ] for prob in (0., 1.)], [1, 1])
    output = views(dict(img=image[..., None].repeat(3, 2), gt_seg_map=image))
    assert output['mask'].shape == (2, 32, 32)
    for view, mask in zip(output['img'], output['mask']):
        np.testing.assert_array_equal(view[..., 0], mask)


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
        # Pillow's filter: test_fast_transforms.py
        assert (crop.interpolation, crop.backend) == ('bicubic', 'torch')
        assert tuple(crop.crop_ratio_range) == (0.08, 1.0)
        assert tuple(crop.aspect_ratio_range) == (3 / 4, 4 / 3)
        assert flip.prob == 0.5 and jitter.prob == 0.8 and grey.prob == 0.2
        # of blue, green, red
        assert tuple(grey.channel_weights) == (0.114, 0.587, 0.2989)
        jitter = jitter.transforms[0]
        assert (jitter.brightness, jitter.contrast, jitter.saturation,
                jitter.hue) == (0.4, 0.4, 0.2, 0.1)
        assert tuple(blur.magnitude_range) == (0.1, 2.0)
        assert blur.prob == (1.0, 0.1)[number]
        assert (solarize.thr, solarize.prob) == (128, (0.0, 0.2)[number])


def test_crops_are_of_the_stated_area_and_aspect():
    crop = TRANSFORMS.build(
        Config.fromfile(RECIPE).train_pipeline[1].transforms[0][0])
    np.random.seed(0)
    boxes = np.array([
        crop.rand_crop_params(np.empty((600, 600, 3)))[2:] for _ in range(400)
    ])
    area, aspect = boxes.prod(1) / 600**2, boxes[:, 1] / boxes[:, 0]
    assert 0.079 < area.min() < 0.1 and 0.9 < area.max() <= 1
    assert 0.74 < aspect.min() < 0.76 and 1.3 < aspect.max() < 1.34
    # uniform areas before those that do not fit are drawn again
    assert 0.4 < area.mean() < 0.54


def test_blur_equals_a_kernel_of_23():
    """The blur, Pillow's, against OpenCV's with the published kernel."""
    blur = TRANSFORMS.build(
        Config.fromfile(RECIPE).train_pipeline[1].transforms[0][4])
    image = cv2.resize(
        np.random.default_rng(0).integers(
            0, 256, (40, 40, 3), dtype=np.uint8), (224, 224),
        interpolation=cv2.INTER_CUBIC)
    for sigma in (0.1, 0.5, 1., 2.):
        blur.random_magnitude = lambda sigma=sigma: sigma
        blurred = blur(dict(img=image.copy()))['img']
        expected = cv2.GaussianBlur(image, (23, 23), sigma)
        difference = cv2.absdiff(blurred, expected)[12:-12, 12:-12]
        assert difference.max() <= 3 and difference.mean() < 1, sigma
    del blur.random_magnitude
    sigmas = [blur.random_magnitude() for _ in range(500)]
    assert 0.1 <= min(sigmas) < 0.15 and 1.95 < max(sigmas) <= 2


def test_views_draw_their_own_crops():
    """Both from the whole picture: neither lies within the other."""
    views = MaskedMultiView([[MaskedRandomResizedCrop(16)]], [2])
    label_map = np.arange(100).reshape(10, 10)
    np.random.seed(0)
    beyond = []
    for _ in range(20):
        first, second = views(
            dict(img=np.zeros((80, 80, 3), np.uint8),
                 gt_seg_map=label_map))['mask']
        beyond.append((bool(set(first.flat) - set(second.flat)),
                       bool(set(second.flat) - set(first.flat))))
    assert np.mean(beyond, axis=0).min() > 0.5
