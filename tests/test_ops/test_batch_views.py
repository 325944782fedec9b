"""Views on the device are those of mmpretrain's transforms."""
import dataclasses

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose, RandomFlip, RandomGrayscale
from mmengine.registry import init_default_scope
from mmpretrain.datasets import (
    GaussianBlur,
    RandomResizedCrop,
    Solarize,
)
from PIL import Image, ImageFilter
from torch.utils._python_dispatch import TorchDispatchMode

from cyborgs_plugin.ops import colour, crop_label_map
from cyborgs_plugin.ops.batch_colour import ColourPlan, apply_colours
from cyborgs_plugin.ops.batch_crop import (
    crop_image,
    crop_images,
    crop_label_maps,
    crop_label_maps_on_cpu,
)
from cyborgs_plugin.ops.batch_views import (
    Drawn,
    batched,
    make_views,
    recolour_batch,
)
from cyborgs_plugin.ops.view_draws import (
    NUM_COLOURS,
    ViewLaw,
    draw_boxes,
    draw_colours,
    draw_views,
    draws,
)

LAW = ViewLaw(
    size=(40, 36), flip=0.5, jitter=0.8, brightness=(0.6, 1.4),
    contrast=(0.6, 1.4), saturation=(0.8, 1.2), hue=(-0.1, 0.1), grey=0.2,
    blur=0.5, sigma=(0.1, 2.), solarise=0.2)


def photo(size, seed):
    """A smooth picture with saturated and dark parts, BGR."""
    random = np.random.default_rng(seed)
    coarse = random.integers(-60, 316, (7, 9, 3)).clip(0, 255)
    return cv2.resize(coarse.astype(np.uint8), size[::-1],
                      interpolation=cv2.INTER_CUBIC)


def held(sizes, law=LAW, cells=((5, 6), (7, 9), (6, 6)), seed=0):
    """Photographs and label maps in one tensor each, and drawn views."""
    random = np.random.default_rng(seed)
    images = [photo(size, seed + i) for i, size in enumerate(sizes)]
    maps = [random.integers(0, 200, cells[i % len(cells)], dtype=np.uint8)
            for i in range(len(sizes))]
    starts, map_starts = (
        np.cumsum([0] + [array.size for array in arrays])[:-1]
        for arrays in (images, maps))
    sizes = np.array(sizes)
    uniform = draws(seed, 0, [str(i) for i in range(len(sizes))],
                    law.num_draws)
    boxes, flips, colours = draw_views(law, uniform, sizes)
    crops = np.column_stack([
        starts, sizes, boxes, flips, map_starts,
        [label_map.shape for label_map in maps]
    ]).astype(np.int64)
    room = np.zeros(3 * int(boxes[:, 3].max()), np.uint8)
    pixels = torch.from_numpy(
        np.concatenate([image.ravel() for image in images] + [room]))
    labels = torch.from_numpy(np.concatenate([m.ravel() for m in maps]))
    return images, maps, pixels, labels, Drawn(law, crops, colours)


SIZES = [(60, 90), (300, 200), (40, 36), (33, 150), (128, 128), (20, 24)]


def test_draws_depend_on_seed_epoch_and_key_alone():
    keys = [f'train2017/{i:012d}.jpg' for i in range(2000)]
    drawn = draws(3, 7, keys, 40)
    np.testing.assert_array_equal(draws(3, 7, keys[900:903], 40),
                                  drawn[900:903])
    # more numbers leave the first as they are
    np.testing.assert_array_equal(draws(3, 7, keys[:5], 60)[:, :40],
                                  drawn[:5])
    for other in (draws(4, 7, keys, 40), draws(3, 8, keys, 40)):
        assert abs(np.corrcoef(other.ravel(), drawn.ravel())[0, 1]) < 0.02
    sorted_ = np.sort(drawn, axis=0)
    steps = (np.arange(2000) + 0.5)[:, None] / 2000
    assert np.abs(sorted_ - steps).max() < 0.05  # Kolmogorov's distance
    columns = np.corrcoef(drawn.T) - np.eye(40)
    neighbours = np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]
    assert np.abs(columns).max() < 0.1 and abs(neighbours) < 0.02


def distance(first, second):
    """Kolmogorov and Smirnov's, of two samples."""
    values = np.sort(np.concatenate([first, second]))
    shares = [
        np.searchsorted(np.sort(sample), values, 'right') / len(sample)
        for sample in (first, second)
    ]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize('size', [(480, 640), (60, 640), (500, 90)])
@pytest.mark.parametrize('area', [(0.08, 1.), (0.2, 1.)])
def test_boxes_have_the_law_of_mmpretrain(size, area):
    transform = RandomResizedCrop(10, crop_ratio_range=area)
    np.random.seed(0)
    theirs = np.array([
        transform.rand_crop_params(np.empty(size)) for _ in range(5000)
    ])
    law = ViewLaw(size=(10, 10), area=area)
    ours = draw_boxes(law, draws(0, 0, [str(i) for i in range(5000)], 40),
                      np.tile(size, (5000, 1)))
    assert ours.min() >= 0
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    for found, expected in zip(ours.T, theirs.T):
        assert distance(found, expected) < 0.039  # at 0.1 %
    for measure in (lambda box: box[:, 2] * box[:, 3],
                    lambda box: box[:, 3] / box[:, 2]):
        assert distance(measure(ours), measure(theirs)) < 0.039


def test_where_no_box_fits_the_crop_is_mmpretrains():
    for size in ((10, 400), (400, 10), (50, 60)):
        transform = RandomResizedCrop(8, max_attempts=0)
        law = ViewLaw(size=(8, 8), attempts=0)
        ours = draw_boxes(law, np.zeros((1, 0)), np.array([size]))
        assert tuple(ours[0]) == transform.rand_crop_params(np.empty(size))


def test_crops_are_pillows():
    images, _, pixels, _, drawn = held(SIZES * 6)
    longest = drawn.crops[:, 5:7].max(0).tolist()
    both = {
        'matrices': crop_images(
            pixels, torch.from_numpy(drawn.crops), (40, 36), longest
        ).permute(0, 2, 3, 1),
        'kernel': torch.stack([crop_image(pixels, crop, (40, 36))
                               for crop in drawn.crops.tolist()])
    }
    assert drawn.crops[:, 7].any() and not drawn.crops[:, 7].all()
    for name, views in both.items():
        for view, image, crop in zip(views, images, drawn.crops):
            top, left, height, width, flip = crop[3:8]
            expected = np.array(
                Image.fromarray(image[top:top + height, left:left + width]
                                ).resize((36, 40), Image.Resampling.BICUBIC))
            expected = expected[:, ::-1] if flip else expected
            off = np.abs(view.numpy().astype(int) - expected)
            assert (off <= 1).mean() > 0.98, (name, crop)
            assert off.mean() < 0.2, (name, crop)


def test_crops_in_parts_are_those_in_one(monkeypatch):
    _, _, pixels, _, drawn = held(SIZES)
    crops, longest = torch.from_numpy(drawn.crops), drawn.crops[:, 5:7].max(0)
    whole = crop_images(pixels, crops, (9, 8), longest.tolist())
    monkeypatch.setattr('cyborgs_plugin.ops.batch_crop._MAX_FLOATS',
                        2 * 3 * int(longest.prod()))
    parts = crop_images(pixels, crops, (9, 8), longest.tolist())
    torch.testing.assert_close(parts, whole, atol=1, rtol=0)


@pytest.mark.parametrize('crop', [crop_label_maps, crop_label_maps_on_cpu])
@pytest.mark.parametrize('seed', range(5))
def test_label_maps_are_those_of_crop_label_map(crop, seed):
    _, maps, _, labels, drawn = held(SIZES * 3, seed=seed)
    found = crop(labels, torch.from_numpy(drawn.crops), (40, 36))
    assert found.dtype == torch.uint8
    for view, label_map, row in zip(found, maps, drawn.crops):
        expected = crop_label_map(label_map, tuple(row[1:3]),
                                  tuple(row[3:7]), (40, 36))
        np.testing.assert_array_equal(
            view, expected[:, ::-1] if row[7] else expected)


@pytest.mark.parametrize('make', [make_views, batched])
def test_colours_are_the_labels(make):
    """A picture painted by its label map: a view is painted by its own."""
    law = ViewLaw(size=(64, 48), flip=0.5, area=(0.3, 1.))
    _, maps, pixels, labels, drawn = held(
        [(96, 120), (140, 180), (96, 96)] * 8, law,
        cells=((3, 4), (4, 3), (2, 3)))
    painted = pixels.clone()
    for label_map, (start, height, width) in zip(maps, drawn.crops[:, :3]):
        image = crop_label_map(label_map, (height, width),
                               (0, 0, height, width), (height, width))
        painted[start:start + 3 * height * width] = torch.from_numpy(
            image[..., None].repeat(3, 2).ravel())
    (views, ), (found, ) = make(painted, labels, [drawn])
    inner = []
    for view, label_map in zip(views, found):
        same = label_map.numpy()
        # away from borders, as far as the filter reaches
        flat = cv2.dilate(same, np.ones((9, 9))) == cv2.erode(
            same, np.ones((9, 9)))
        inner.append(flat.mean())
        for channel in view.numpy():
            assert np.abs(channel.astype(int) - same)[flat].max() <= 1
            # and at borders nearer to it than chance has it
            assert (np.abs(channel.astype(int) - same) < 40).mean() > 0.85
    assert np.mean(inner) > 0.3


def given(law, **colours):
    """Colours of N views: nothing but what is given."""
    number = len(next(iter(colours.values())))
    plain = draw_colours(
        dataclasses.replace(law, jitter=0., grey=0., blur=0., solarise=0.),
        draws(0, 0, [str(i) for i in range(number)], NUM_COLOURS))
    return dataclasses.replace(plain, **colours)


def on_batch(views, law, colours):
    plan = ColourPlan.of(law, colours)
    done = apply_colours(
        torch.from_numpy(views[plan.rows]).permute(0, 3, 1, 2).contiguous(),
        plan, torch.from_numpy(plan.table))
    return done.permute(0, 2, 3, 1).numpy()


def on_cpu(views, law, colours):
    return np.stack([
        colour.recolour(view, law, colours, row)
        for row, view in enumerate(views)
    ])


def jittered(image, order, factors):
    """By mmcv, as mmpretrain's ColorJitter calls it."""
    for kind in order:
        image = (mmcv.adjust_brightness, mmcv.adjust_contrast,
                 mmcv.adjust_color, mmcv.adjust_hue)[kind](
                     image, factors[kind], backend='pillow')
    return image


def expected_of(kind, views, law, colours):
    weights = np.array(law.grey_weights) / sum(law.grey_weights)
    for row, view in enumerate(views):
        if kind == 'jitter':
            view = jittered(view, colours.order[row], colours.factors[row])
        elif kind == 'grey':
            view = np.dstack([(weights * view).sum(2).astype(np.uint8)] * 3)
        elif kind == 'blur':
            view = np.array(Image.fromarray(view).filter(
                ImageFilter.GaussianBlur(float(colours.sigma[row]))))
        else:
            view = mmcv.solarize(view, 128)
        yield view


@pytest.mark.parametrize('change', [on_batch, on_cpu])
@pytest.mark.parametrize('kind, share, mean', [
    ('brightness', 1., 0.01), ('contrast', 1., 0.01),
    ('saturation', 1., 0.01), ('hue', 0.99, 0.02), ('jitter', 0.99, 0.02),
    ('grey', 1., 0.01), ('blur', 0.95, 0.8), ('solarise', 1., 0.)
])
@pytest.mark.filterwarnings('ignore')
def test_each_change_is_mmpretrains(change, kind, share, mean):
    """The same numbers, applied by mmcv and Pillow."""
    views = np.stack([photo((48, 56), seed) for seed in range(24)])
    random = np.random.default_rng(1)
    yes, law = np.ones(24, bool), LAW
    neutral = dict(order=random.permuted(np.tile(range(4), (24, 1)), axis=1))
    factors = np.column_stack([
        random.uniform(*span, 24)
        for span in (law.brightness, law.contrast, law.saturation, law.hue)
    ])
    name = kind
    if kind in ('brightness', 'contrast', 'saturation', 'hue'):
        number = ('brightness', 'contrast', 'saturation', 'hue').index(kind)
        only = np.tile([1., 1., 1., 0.], (24, 1))
        only[:, number] = factors[:, number]
        factors, name = only, 'jitter'
        if kind != 'hue':  # HSV of bytes is not the identity
            law = dataclasses.replace(law, hue=(0., 0.))
    drawn = given(
        law, factors=factors, **{
            'jitter': dict(jitter=yes, **neutral),
            'grey': dict(grey=yes),
            'blur': dict(sigma=random.uniform(*law.sigma, 24)),
            'solarise': dict(solarise=yes)
        }[name])
    if law.hue == (0., 0.):
        drawn.order[:] = [number, *({0, 1, 2, 3} - {number})]
        expected = np.stack([
            jittered(view, [number], factor)
            for view, factor in zip(views, factors)
        ])
    else:
        expected = np.stack(list(expected_of(name, views, law, drawn)))
    assert (expected != views).mean() > 0.2
    off = np.abs(change(views, law, drawn).astype(int) - expected)
    if change is on_cpu and name == 'jitter' and law.hue != (0., 0.):
        # OpenCV's hues are of other bytes; these pictures are all colours
        share, mean = 0.7, 1.3
    assert (off <= 1).mean() >= share
    assert off.mean() <= mean


def statistics(views):
    """Of each view: moments, histogram, spectrum; (N, S)."""
    views = views.astype(np.float64)
    grey = views.mean(3)
    grey = grey - grey.mean((1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(grey))**2
    frequency = np.fft.fftfreq(views.shape[1])
    radius = np.hypot(frequency[:, None], frequency)
    bands = [
        np.log1p(power[:, (radius > low) & (radius <= high)].mean(1))
        for low, high in ((0, .1), (.1, .2), (.2, .35), (.35, .5))
    ]
    levels = [((views >= low) & (views < low + 32)).mean((1, 2, 3))
              for low in range(0, 256, 32)]
    return np.column_stack([
        views.mean((1, 2)), views.std((1, 2)),
        np.ptp(views.mean((1, 2)), axis=1), *levels, *bands,
        (views[:, :, :16].mean((1, 2, 3)) - views[:, :, 16:].mean((1, 2, 3)))
    ])


# grey levels of means and deviations, shares, logarithms of power
SLACK = np.array([0.4] * 7 + [0.004] * 8 + [0.05] * 4 + [0.4])


@pytest.mark.parametrize('kind', [
    'crop', 'flip', 'jitter', 'grey', 'blur', 'solarise', 'all of view 2'
])
@pytest.mark.filterwarnings('ignore')
def test_distributions_are_mmpretrains(kind):
    """2,000 draws of each, theirs by numpy's generator, ours by the key."""
    init_default_scope('mmpretrain')
    side, number = 32, 2000
    image = photo((80, 100), 5)
    crop = dict(scale=side, crop_ratio_range=(0.2, 1.),
                interpolation='bicubic', backend='pillow')
    whole = dict(crop, crop_ratio_range=(1., 1.), aspect_ratio_range=(1., 1.),
                 max_attempts=0)
    theirs = {
        'crop': [], 'flip': [RandomFlip(0.5)],
        'jitter': [dict(type='RandomApply', prob=0.8, transforms=[
            dict(type='ColorJitter', brightness=.4, contrast=.4,
                 saturation=.2, hue=.1)])],
        'grey': [RandomGrayscale(0.2, True, (0.114, 0.587, 0.2989))],
        'blur': [GaussianBlur(prob=0.5, magnitude_range=(0.1, 2.),
                              magnitude_std='inf')],
        'solarise': [Solarize(thr=128, prob=0.2)]
    }
    theirs['all of view 2'] = sum(theirs.values(), [])
    crops = kind in ('crop', 'all of view 2')
    pipeline = Compose(
        [RandomResizedCrop(**(crop if crops else whole)), *theirs[kind]])
    np.random.seed(0)
    expected = statistics(np.stack([
        pipeline(dict(img=image))['img'] for _ in range(number)
    ]))
    names = {'jitter', 'grey', 'blur', 'solarise', 'flip'}
    off = {} if kind == 'all of view 2' else {
        name: 0. for name in names - {kind}}
    law = dataclasses.replace(
        LAW, size=(side, side), **(
            dict(area=(0.2, 1.)) if crops else
            dict(area=(1., 1.), aspect=(1., 1.), attempts=0)), **off)
    boxes, flips, colours = draw_views(
        law, draws(0, 0, [str(i) for i in range(number)], law.num_draws),
        np.tile(image.shape[:2], (number, 1)))
    rows = np.column_stack([
        np.zeros(number), np.tile(image.shape[:2], (number, 1)), boxes,
        flips, np.zeros((number, 3))
    ]).astype(np.int64)
    pixels = torch.from_numpy(
        np.concatenate([image.ravel(), np.zeros(300, np.uint8)]))
    drawn = [Drawn(law, rows, colours)]
    # each change by the other form is compared above
    for make in (make_views, batched)[:1 + (kind == 'all of view 2')]:
        (views, ), _ = make(pixels, None, drawn)
        found = statistics(views.permute(0, 2, 3, 1).numpy())
        error = np.sqrt((found.var(0) + expected.var(0)) / number)
        difference = np.abs(found.mean(0) - expected.mean(0))
        assert (difference <= 4 * error + SLACK).all(), (make, kind)
        wider = np.abs(found.std(0) - expected.std(0))
        assert (wider <= 0.12 * expected.std(0) + SLACK).all(), (make, kind)


def test_both_forms_make_the_same_views():
    """What was drawn, not the device, decides."""
    second = dataclasses.replace(LAW, size=(24, 24), blur=1., solarise=0.)
    _, _, pixels, labels, first = held(SIZES * 4)
    other = Drawn(second, first.crops, first.colours)
    views, maps = make_views(pixels, labels, [first, other])
    again, same = batched(pixels, labels, [first, other])
    assert [view.shape for view in views] == [(24, 3, 40, 36),
                                              (24, 3, 24, 24)]
    for one, two, map_one, map_two in zip(views, again, maps, same):
        off = (one.int() - two.int()).abs().float()
        assert one.dtype == two.dtype == torch.uint8
        assert off.mean() < 0.8 and (off <= 2).float().mean() > 0.9
        torch.testing.assert_close(map_one, map_two)
    colours_of = first.colours
    batch = recolour_batch(views[0], LAW, colours_of)
    alone = recolour_batch(views[0][3:4], LAW, colours_of[np.array([3])])
    torch.testing.assert_close(batch[3:4], alone)


@pytest.mark.parametrize('number', [1, 2, 6])
def test_small_batches_and_laws_without_colours(number):
    plain = ViewLaw(size=(20, 20))
    _, _, pixels, labels, drawn = held(SIZES[:number], plain)
    (views, ), _ = batched(pixels, labels, [drawn])
    (expected, ), _ = make_views(pixels, labels, [drawn])
    torch.testing.assert_close(views, expected, atol=1, rtol=0)
    for place in range(3):  # hue first, between and last
        colours = given(LAW, jitter=np.ones(number, bool))
        order = [[3, 0, 1, 2], [0, 3, 2, 1], [2, 1, 0, 3]][place]
        colours.order[:] = order
        view = views.permute(0, 2, 3, 1).numpy()
        expected = np.stack([
            jittered(image, order, factors)
            for image, factors in zip(view, colours.factors)
        ])
        off = np.abs(on_batch(view, LAW, colours).astype(int) - expected)
        assert (off <= 1).mean() > 0.97


@pytest.mark.parametrize('number', [1, 2])
def test_batches_that_are_grey_throughout(number):
    """Further changes write to them."""
    views = np.stack([photo((20, 20), seed) for seed in range(number)])
    every = np.ones(number, bool)
    colours = given(LAW, grey=every, sigma=np.full(number, 1.5),
                    solarise=every)
    off = np.abs(on_batch(views, LAW, colours).astype(int)
                 - on_cpu(views, LAW, colours))
    # what lies at the threshold falls on either side of it
    assert (off <= 2).mean() > 0.95


class Copies(TorchDispatchMode):
    """Counts copies between devices."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.count += any(
                isinstance(arg, torch.Tensor) and arg.device != out.device
                for arg in args)
        return out


def test_the_host_waits_for_nothing():
    """On 'meta' whatever asks a tensor for its values raises."""
    _, _, pixels, labels, drawn = held(SIZES * 2)
    with Copies() as copies:
        views, maps = batched(pixels.to('meta'), labels.to('meta'),
                              [drawn, drawn])
    assert copies.count == 2 + 1  # the data, and all that was drawn
    assert {view.device.type for view in views + maps} == {'meta'}
    assert [view.shape for view in views] == [(12, 3, 40, 36)] * 2
    assert [view.shape for view in maps] == [(12, 40, 36)] * 2
    with Copies() as copies:
        recolour_batch(views[0], LAW, drawn.colours)
    assert copies.count == 1


def test_blur_has_the_stated_deviation():
    sigmas = np.array([0.1, 0.5, 0.9, 1.3, 2., 3.7])
    kernels = colour.blur_kernels(sigmas)
    places = np.arange(kernels.shape[1]) - kernels.shape[1] // 2
    np.testing.assert_allclose(kernels.sum(1), 1)
    np.testing.assert_allclose((kernels * places**2).sum(1), sigmas**2)
    assert colour.blur_kernels(sigmas[:0]).shape == (0, 1)


