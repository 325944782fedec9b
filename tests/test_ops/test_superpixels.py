"""Superpixels on cells, and means over them, against naive loops."""
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from skimage.segmentation import felzenszwalb, slic

from cyborgs_plugin.ops.superpixels import (
    cell_colours,
    check_superpixels,
    find_superpixels,
    pool,
)

SMALL = dict(scale=10, sigma=0.5, min_size=8)


def picture(height=52, width=76, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('kind, options, find', [
    ('Felzenszwalb', SMALL, felzenszwalb),
    ('SLIC', dict(n_segments=12, compactness=5), slic)])
@pytest.mark.parametrize('stride, reduction', [
    (4, 2), (8, 2), (8, 1), (8, 4), (16, 2), (8, 8)])
def test_equals_a_naive_loop(kind, options, find, stride, reduction):
    image = picture()
    height, width = -(-52 // stride), -(-76 // stride)
    part = stride // reduction
    small = cv2.resize(image, (width * part, height * part),
                       interpolation=cv2.INTER_AREA)
    whole = find(small[..., ::-1], **options)
    lab = rgb2lab(small[..., ::-1]) / 50
    cells = [[whole[row * part + part // 2, col * part + part // 2]
              for col in range(width)] for row in range(height)]
    names = sorted(set(sum(cells, [])))
    found = find_superpixels(image, kind, stride, reduction, **options)
    assert found.ids.shape == (height, width) and len(names) > 3
    assert found.ids.tolist() == [
        [names.index(name) for name in row] for row in cells]
    for number, name in enumerate(names):
        mine = [(row, col) for row in range(height) for col in range(width)
                if cells[row][col] == name]
        assert found.counts[number] == len(mine)
        place = [np.mean([(2 * at[axis] + 1) / side - 1 for at in mine])
                 for axis, side in enumerate((height, width))]
        np.testing.assert_allclose(found.places[number], place, atol=1e-6)
        np.testing.assert_allclose(
            found.colours[number], lab[whole == name].mean(axis=0), atol=5e-3)


@pytest.mark.parametrize('kind, options', [
    ('Felzenszwalb', {}), ('SLIC', dict(n_segments=20))])
def test_edges_of_a_square_are_followed_exactly(kind, options):
    image = np.full((160, 192, 3), 40, np.uint8)
    image[48:112, 64:136] = (30, 200, 240)
    square = np.zeros((20, 24), bool)
    square[6:14, 8:17] = True
    ids = find_superpixels(image, kind, **options).ids
    assert not set(ids[square]) & set(ids[~square])


def test_mean_over_superpixels_equals_a_loop():
    torch.manual_seed(0)
    ids = torch.randint(5, (6, 7)).flatten()
    ids[:5] = torch.arange(5)
    maps = torch.randn(6, 7, 3, dtype=torch.float64)
    means = pool(maps, ids.reshape(6, 7), 5)
    for number in range(5):
        expected = [maps[row, col] for row in range(6) for col in range(7)
                    if ids[row * 7 + col] == number]
        torch.testing.assert_close(means[number],
                                   sum(expected) / len(expected))


def test_coarser_maps_are_interpolated():
    """A ramp stays a ramp, but for half a cell at the border."""
    rows = torch.arange(4.)[:, None, None].expand(4, 5, 1)
    ids = torch.arange(80).reshape(8, 10)
    found = pool(rows, ids, 80).reshape(8, 10)
    expected = ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3)
    torch.testing.assert_close(found, expected[:, None].expand(8, 10))
    fine = torch.randn(16, 20, 2)
    torch.testing.assert_close(
        pool(fine, ids, 80),
        F.interpolate(fine.permute(2, 0, 1)[None], (8, 10), mode='bilinear')[0]
        .permute(1, 2, 0).flatten(0, 1))


def test_colours_of_cells():
    image = np.zeros((16, 24, 3), np.uint8)
    image[:8, 8:16] = (10, 200, 90)
    found = cell_colours(image, (2, 3))
    np.testing.assert_allclose(
        found[0, 1], rgb2lab(np.array([[[90, 200, 10]]], np.uint8))[0, 0] / 50,
        atol=5e-3)
    assert not found[1].any() and not found[0, 0].any()


def test_a_picture_of_one_pixel():
    found = find_superpixels(np.full((1, 1, 3), 9, np.uint8))
    assert found.ids.tolist() == [[0]] and found.counts.tolist() == [1]


@pytest.mark.parametrize('options, match', [
    (dict(type='Quickshift'), "type must be .*'Quickshift'"),
    (dict(stride=7), 'stride must be a multiple of reduction=2.*7'),
    (dict(stride=0), 'stride must be a whole number .*0'),
    (dict(reduction='x'), "reduction must be a whole number .*'x'"),
    (dict(scales=3), 'scales is no option of Felzenszwalb.*min_size'),
    (dict(type='SLIC', scale=3), 'scale is no option of SLIC.*n_segments'),
    (dict(type='SLIC', mask=3), 'mask is no option of SLIC'),
    (dict(scale='x'), "scale must be a number .*'x'"),
    (dict(scale=float('nan')), 'scale must be a number above 0.*nan'),
    (dict(type=['SLIC']), 'type must be'),
    (dict(type='SLIC', n_segments=0), 'n_segments must be a whole .*0'),
    (dict(type='SLIC', compactness=0), 'compactness must be .* above 0'),
    (dict(min_size=2.5), 'min_size must be a whole number .*2.5'),
    (dict(min_size=-1), 'min_size must be a whole number .*-1')])
def test_options_that_mean_nothing(options, match):
    check_superpixels('SLIC', n_segments=9, sigma=1)
    with pytest.raises(ValueError, match=match):
        check_superpixels(**options)
