"""The fast transforms are mmpretrain's: the same draws, the same pictures."""
import random

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.datasets import MultiView
from mmpretrain.registry import TRANSFORMS

from cyborgs_plugin.datasets import (
    FastPackInputs,
    FastRandomFlip,
    FastRandomResizedCrop,
    MaskedMultiView,
    MaskedRandomResizedCrop,
)
from cyborgs_plugin.errors import UserError

from ..helpers import RECIPE, ROOT
from ..test_ops.test_batch_views import photo, statistics

SMALL = f'{ROOT}/configs/_base_/datasets/small_scenes.py'
IMAGES = f'{ROOT}/configs/_base_/datasets/small_image_views.py'
CROP = dict(scale=32, crop_ratio_range=(0.2, 1.), interpolation='bicubic')
STEPS = {
    'crop': ('RandomResizedCrop', dict(CROP, backend='torch')),
    'flip': ('RandomFlip', dict(prob=0.5)),
    'jitter': ('ColorJitter', dict(
        brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)),
    'grey': ('RandomGrayscale', dict(
        prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587,
                                                       0.2989))),
    'blur': ('GaussianBlur', dict(
        magnitude_range=(0.1, 2.), magnitude_std='inf', prob=0.5)),
    'solarise': ('Solarize', dict(thr=128, prob=0.2)),
}
# Most that a pixel, a mean or a spectrum of a view may be off, on the average
# of views; hue: OpenCV's and Pillow's bytes differ in a saturated picture.
PIXELS = dict(crop=0.1, flip=0., jitter=1.3, grey=0.01, blur=0.7, solarise=0.)


def build(kind, **options):
    init_default_scope('mmpretrain')
    return TRANSFORMS.build(dict(type=kind, **options))


def drawn(transform, images, number):
    """So many outputs of a transform, drawn from one seed."""
    np.random.seed(1)
    random.seed(1)
    return np.stack([
        transform(dict(img=images[i % len(images)].copy()))['img']
        for i in range(number)
    ])


@pytest.mark.parametrize('kind', STEPS)
@pytest.mark.filterwarnings('ignore')
def test_equal_draws_make_equal_pictures(kind):
    """2,000 draws: a stronger test than that of two samples of a law."""
    name, options = STEPS[kind]
    side = (90, 70) if kind == 'crop' else (32, 32)
    images = [photo(side, seed) for seed in range(20)]
    fast = build(f'Fast{name}', **options)
    if kind == 'crop':
        options = dict(options, backend='pillow')
    parent = build(name, **options)
    assert isinstance(fast, type(parent))
    ours, theirs = (drawn(one, images, 2000) for one in (fast, parent))
    assert ours.dtype == np.uint8 and ours.shape == theirs.shape
    off = np.abs(ours.astype(int) - theirs).mean((1, 2, 3))
    assert off.mean() <= PIXELS[kind]
    assert np.quantile(off, 0.99) <= 4 * PIXELS[kind]
    # moments, histograms, spectra: of all draws together, and of each
    found, expected = statistics(ours), statistics(theirs)
    slack = np.array([0.4] * 7 + [0.004] * 8 + [0.05] * 4 + [0.4])
    assert (np.abs(found.mean(0) - expected.mean(0)) <= slack).all()
    assert (np.abs(found.std(0) - expected.std(0))
            <= slack + 0.02 * expected.std(0)).all()
    for one, other in zip(found.T, expected.T):
        assert other.std() == 0 or np.corrcoef(one, other)[0, 1] > 0.99


@pytest.mark.filterwarnings('ignore')
def test_views_of_the_recipe_are_those_of_mmpretrain():
    """Both pipelines from one seed, the second with Pillow throughout."""
    cfg = Config.fromfile(SMALL)
    init_default_scope('mmpretrain')
    pipelines = []
    for plain in (False, True):
        steps = cfg.train_pipeline[1:]
        for view in steps[0].transforms if plain else ():
            view[0].backend = 'pillow'
            for step in [*view, *view[2].transforms]:
                step.type = step.type.removeprefix('Fast')
        if plain:
            steps[1].type = 'PackInputs'
            assert 'Fast' not in str(steps)
        pipelines.append(Compose(steps))
    image, label_map = photo((240, 320), 3), np.arange(1200).reshape(30, 40)
    both = []
    for pipeline in pipelines:
        np.random.seed(0)
        random.seed(0)
        both.append([
            pipeline(dict(img=image, gt_seg_map=label_map.astype(np.uint16),
                          seg_fields=['gt_seg_map'])) for _ in range(60)
        ])
    off = []
    for one, other in zip(*both):
        torch.testing.assert_close(one['data_samples'].mask,
                                   other['data_samples'].mask)
        for view, expected in zip(one['inputs'], other['inputs']):
            assert view.dtype == torch.uint8 and view.is_contiguous()
            off.append((view.int() - expected.int()).abs().float().mean())
    assert np.mean(off) < 1.2 and np.max(off) < 6  # such a picture is garish


def test_baselines_see_the_same_pictures():
    init_default_scope('mmpretrain')
    image = photo((100, 140), 0)
    label_map = np.zeros((13, 18), np.uint8)
    views = []
    for path in (SMALL, IMAGES):
        step = TRANSFORMS.build(Config.fromfile(path).train_pipeline[1])
        assert isinstance(step, MultiView)
        np.random.seed(4)
        random.seed(4)
        views.append(step(dict(img=image, gt_seg_map=label_map,
                               seg_fields=['gt_seg_map']))['img'])
    np.testing.assert_array_equal(*views)


@pytest.mark.parametrize('seed', range(8))
def test_colours_are_the_labels(seed):
    """A picture painted by its label map: a view is painted by its own."""
    label_map = np.random.default_rng(seed).integers(
        0, 256, (6, 8)).astype(np.uint8)
    image = label_map.repeat(40, 0).repeat(40, 1)[..., None].repeat(3, 2)
    pipeline = Compose([
        MaskedRandomResizedCrop(
            128, interpolation='bicubic', backend='torch'),
        FastRandomFlip(0.5)
    ])
    np.random.seed(seed)
    found = pipeline(dict(img=image, gt_seg_map=label_map,
                          seg_fields=['gt_seg_map']))
    ids = found['gt_seg_map']
    # away from borders, as far as the filter reaches
    flat = cv2.dilate(ids, np.ones((7, 7))) == cv2.erode(ids, np.ones((7, 7)))
    assert flat.mean() > 0.3
    off = np.abs(found['img'].astype(int) - ids[..., None])
    assert off[flat].max() <= 1


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int32', 'int64'])
def test_flips_are_mmcvs(direction, dtype):
    image = photo((6, 10), 0)
    label_map = np.arange(60).reshape(6, 10).astype(dtype)
    given = dict(img=image, gt_seg_map=label_map, seg_fields=['gt_seg_map'])
    found, expected = (
        build(kind, prob=1., direction=direction)({**given})
        for kind in ('FastRandomFlip', 'RandomFlip'))
    assert found.keys() == expected.keys()
    for key in ('img', 'gt_seg_map'):
        np.testing.assert_array_equal(found[key], expected[key])
        assert found[key].dtype == expected[key].dtype
    assert found['img'].flags.c_contiguous
    assert 'gt_seg_map' not in FastRandomFlip(1.)(dict(img=image))


def test_flips_of_several_directions_and_swapped_labels_are_mmcvs():
    label_map = np.arange(12, dtype=np.uint8).reshape(3, 4)
    given = dict(img=photo((3, 4), 0), gt_seg_map=label_map)
    for options in (dict(prob=[0.3, 0.4], direction=['horizontal',
                                                     'vertical']),
                    dict(prob=0.5, swap_seg_labels=[(0, 5)])):
        outputs = []
        for kind in ('FastRandomFlip', 'RandomFlip'):
            np.random.seed(2)
            flip = build(kind, **options)
            outputs.append([flip({**given}) for _ in range(20)])
        for found, expected in zip(*outputs):
            assert found['flip_direction'] == expected['flip_direction']
            np.testing.assert_array_equal(found['gt_seg_map'],
                                          expected['gt_seg_map'])


def test_packing_is_mmpretrains():
    for inputs in (photo((5, 7), 0), [photo((5, 7), 1), photo((4, 4), 2)],
                   photo((5, 7), 0)[:, ::-1], photo((5, 7), 0)[..., 0],
                   np.ones((3, 4, 3)), np.ones((2, 4, 5, 3)),
                   torch.ones(3, 4, 4)):
        found, expected = (
            build(kind)(dict(img=inputs))['inputs']
            for kind in ('FastPackInputs', 'PackInputs'))
        torch.testing.assert_close(found, expected)
    assert isinstance(FastPackInputs(), TRANSFORMS.get('PackInputs'))


def test_other_grey_is_mmcvs():
    for options in (dict(keep_channels=False), dict(color_format='hsv')):
        found, expected = (
            drawn(build(kind, prob=1., **options), [photo((8, 8), 0)], 1)
            for kind in ('FastRandomGrayscale', 'RandomGrayscale'))
        np.testing.assert_array_equal(found, expected)


def test_blur_and_solarisation_of_fixed_and_of_drawn_numbers():
    for kind, options in (('GaussianBlur', dict(radius=1.5)),
                          ('GaussianBlur', dict(radius=0)),
                          ('Solarize', dict(magnitude_range=(0., 255.),
                                            magnitude_std='inf'))):
        found, expected = (
            drawn(build(one, prob=1., **options), [photo((32, 32), 0)], 20)
            for one in (f'Fast{kind}', kind))
        assert np.abs(found.astype(int) - expected).mean() < 0.7


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_crops_by_torch_are_those_by_pillow(interpolation):
    random_ = np.random.default_rng(0)
    image = cv2.resize(photo((200, 300), 1), (300, 200))
    noisy = np.clip(image + random_.normal(0, 20, image.shape), 0, 255)
    noisy = noisy.astype(np.uint8)
    crops = [
        FastRandomResizedCrop((24, 40), interpolation=interpolation,
                              backend=backend)
        for backend in ('torch', 'pillow')
    ]
    for box in ((0, 0, 200, 300), (10, 20, 24, 40), (3, 5, 12, 9),
                (50, 60, 100, 50), (7, 7, 1, 1)):
        found, expected = (crop.crop(noisy, box) for crop in crops)
        off = np.abs(found.astype(int) - expected)
        assert found.shape == (24, 40, 3) and off.max() <= 2
        # Pillow resizes columns before rows where that is less work.
        assert off.mean() < 0.3 and abs((found * 1. - expected).mean()) < .02
        assert not np.shares_memory(found, noisy)
        # of other strides what comes next takes twice as long
        assert found.flags.c_contiguous
    mirrored = crops[0].crop(noisy[:, ::-1], (0, 0, 200, 300))
    np.testing.assert_array_equal(
        mirrored, crops[0].crop(noisy[:, ::-1].copy(), (0, 0, 200, 300)))


def test_filters_that_torch_has_not_are_refused():
    with pytest.raises(UserError, match="interpolation='nearest'"):
        MaskedRandomResizedCrop(8, interpolation='nearest', backend='torch')


def test_views_leave_the_photograph_alone():
    """It is not copied for a view that begins with a crop, but for others."""
    image = photo((40, 50), 0)
    before = image.copy()
    darken = build('FastColorJitter', brightness=(0.5, 0.5))

    def spoil(results):
        results['img'][:] = 0
        results['seg_fields'].append('x')
        return results

    crop = MaskedRandomResizedCrop(40, crop_ratio_range=(1., 1.),
                                   interpolation='bicubic', backend='torch')
    fields = ['gt_seg_map']
    for steps in ([crop, darken, spoil], [spoil, crop], [spoil]):
        MaskedMultiView([steps], [2])(dict(
            img=image, gt_seg_map=np.zeros((5, 6), np.uint8),
            seg_fields=fields))
        np.testing.assert_array_equal(image, before)
        assert fields == ['gt_seg_map']


def test_the_recipe_uses_them():
    for step in Config.fromfile(RECIPE).train_pipeline[1].transforms[0][1:]:
        kind = step.get('transforms', [step])[0].type
        assert kind.startswith('Fast'), kind
