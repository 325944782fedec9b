"""The counts of a round and its agreement with another."""
import re

import numpy as np
import pytest

from cyborgs_plugin.segmentation import GridMasks, make_round
from cyborgs_plugin.segmentation.round_report import (
    agreement,
    describe_round,
    shape_of_regions,
)

from ..helpers import FixedMasks, images_of, random_maps


def rand_index_by_pairs(first, second):
    """ARI from its definition on all pairs of pixels (Hubert and Arabie)."""
    a, b = first.ravel(), second.ravel()
    upper = np.triu_indices(a.size, 1)
    same_a = (a[:, None] == a)[upper]
    same_b = (b[:, None] == b)[upper]
    both = (same_a & same_b).sum()
    expected = same_a.sum() * same_b.sum() / same_a.size
    return (both - expected) / ((same_a.sum() + same_b.sum()) / 2 - expected)


def test_agreement_is_the_mean_adjusted_rand_index(photo_root, tmp_path):
    images = images_of(photo_root)
    fine, coarse = random_maps(0), random_maps(1, (3, 4), 3)
    for number in range(0, 12, 2):  # Half of them agree by more than chance.
        coarse[number] = fine[number][::2, ::2]
    banks = [make_round(FixedMasks(maps), images, str(tmp_path / str(n)), n, 0)
             for n, maps in enumerate((fine, coarse))]
    scores = [
        rand_index_by_pairs(ids, other.repeat(2, 0).repeat(2, 1))
        for ids, other in zip(fine, coarse)
    ]
    assert agreement(*banks) == (pytest.approx(np.mean(scores)), 12)
    assert agreement(banks[1], banks[0])[0] == pytest.approx(np.mean(scores))
    assert agreement(*banks, num_images=4) == (
        pytest.approx(np.mean(scores[::3])), 4)
    assert agreement(banks[0], banks[0]) == (1, 12)
    other = make_round(FixedMasks(fine), [('new00.jpg', images[0][1])],
                       str(tmp_path / 'other'), 0, 0)
    assert np.isnan(agreement(banks[0], other)[0])


def test_a_round_is_counted_and_described(photo_root, tmp_path):
    images, maps = images_of(photo_root), random_maps(2, ids=9)
    maps[4] = np.zeros((6, 8), int)
    first = make_round(FixedMasks(maps), images, str(tmp_path / 'm'), 0, 1,
                       group_size=5)
    order = np.random.default_rng([1, 0]).permutation(12)
    largest = [max(maps[i].max() for i in group) + 1
               for group in (order[:5], order[5:10], order[10:])]
    regions = np.mean([len(np.unique(ids)) for ids in maps])
    assert first.manifest['counts'] == dict(
        groups=3, clusters=[min(largest), np.mean(largest), max(largest)],
        regions=pytest.approx(regions))
    second = make_round(FixedMasks(maps), images, str(tmp_path / 'm'), 1, 1)
    line = describe_round(second, 6., first)
    assert re.fullmatch(
        rf'Mask round 1: 12 images, 0 broken, K 9 to 9 \(mean 9.0\), '
        rf'{regions:.1f} regions per image, 6.0 s \(0.5000 s per image\), '
        r'ARI 1.000 with round 0 \(12 images\), [\d.]+ GB free', line)


@pytest.mark.parametrize('whole, clusters', [
    (8, [6, 6., 6]), (2, [6, 6., 6]), (0, [0, 0., 0])])
def test_groups_without_a_whole_image_have_no_k(photo_root, tmp_path, whole,
                                                clusters):
    images = images_of(photo_root)
    order = np.random.default_rng([0, 0]).permutation(12)
    for index in order[whole:]:
        open(images[index][1], 'w').close()
    bank = make_round(GridMasks((2, 3)), images, str(tmp_path / 'm'), 0, 0,
                      group_size=4, max_broken=1)
    assert bank.manifest['counts']['clusters'] == clusters
    assert bank.manifest['counts']['groups'] == 3
    low, mean, high = clusters
    assert f'K {low} to {high} (mean {mean})' in describe_round(bank, 1., None)


def test_how_regions_lie_in_their_images(photo_root, tmp_path):
    """A frame around all, two halves, and a single region."""
    framed = np.full((6, 8), 3)
    framed[1:-1, 1:-1] = 1
    halves = np.zeros((6, 8), int)
    halves[:, 4:] = 7
    maps = 4 * [framed, halves, np.zeros((6, 8), int)]
    bank = make_round(FixedMasks(maps), images_of(photo_root),
                      str(tmp_path / 'm'), 0, 0)
    found = shape_of_regions(bank)
    assert found == dict(
        regions_per_image=pytest.approx((2 + 2 + 1) / 3),
        # 24 cells of 48 lie in the frame, and within it
        largest_region=pytest.approx((0.5 + 0.5 + 1) / 3),
        border_share=pytest.approx((1 + 0.5 + 1) / 3))
