"""Object-centric scores against sets of pixels and pairs."""
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.registry import METRICS

from cyborgs_plugin.evaluation.object_centric import (
    central_square,
    object_centric_scores,
)


def naive(ids, masks, classes, crowd):
    """Follow the protocol in words, pixel by pixel."""
    height, width = ids.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = [(y, x) for y in range(top, top + side)
              for x in range(left, left + side)]
    in_crowd = {p for p in square
                for m, c in zip(masks, crowd) if c and m[p]}

    def best(objects):
        """Mean over objects, without pixels of crowds or of two objects."""
        seen = [p for p in square if p not in in_crowd
                and sum(p in o for o in objects) <= 1]
        kept = [o for o in (o & set(seen) for o in objects) if o]
        regions = [{p for p in seen if ids[p] == r} for r in np.unique(ids)]
        if not kept:
            return None, []
        return np.mean([
            max(len(o & r) / len(o | r) for r in regions if r) for o in kept
        ]), kept

    things = [(k, {p for p in square if m[p]})
              for m, k, c in zip(masks, classes, crowd) if not c]
    mbo_i, kept = best([o for _, o in things])
    mbo_c, _ = best([set().union(*(o for k, o in things if k == each))
                     for each in sorted({k for k, _ in things})])
    found = {} if mbo_i is None else {'mBO_i': mbo_i}
    if mbo_c is not None:
        found['mBO_c'] = mbo_c
    if kept:
        points = [(number, ids[p]) for number, o in enumerate(kept)
                  for p in o]
        pairs = list(itertools.combinations(points, 2))
        both = sum(a == b for a, b in pairs)
        truth = sum(a[0] == b[0] for a, b in pairs)
        mine = sum(a[1] == b[1] for a, b in pairs)
        chance = truth * mine / max(len(pairs), 1)
        most = (truth + mine) / 2
        found['FG_ARI'] = (
            1. if most == chance else (both - chance) / (most - chance))
    return found


@given(st.integers(0, 10**6), st.integers(0, 4))
def test_equals_the_naive_version(seed, number):
    random = np.random.default_rng(seed)
    shape = random.integers(3, 8, 2)
    ids = random.integers(0, 4, shape) * 3
    masks = random.random((number, *shape)) < 0.4
    classes = random.integers(0, 2, number)
    crowd = random.random(number) < 0.2
    found = object_centric_scores(ids, masks, classes, crowd)
    assert found == pytest.approx(naive(ids, masks, classes, crowd))


def test_the_truth_itself_is_perfect():
    ids = np.zeros((8, 12), int)
    ids[1:4, 3:6], ids[5:7, 6:9] = 1, 2
    masks = np.stack([ids == 1, ids == 2])
    found = object_centric_scores(ids, masks, np.array([4, 9]),
                                  np.zeros(2, bool))
    assert found == dict(FG_ARI=1, mBO_i=1, mBO_c=1)
    # two regions of one class share its pixels: 9 of 15 is the best
    found = object_centric_scores(ids, masks, np.array([4, 4]),
                                  np.zeros(2, bool))
    assert found == dict(FG_ARI=1, mBO_i=1, mBO_c=0.6)


def test_square_of_the_middle():
    assert central_square((4, 9)) == (slice(0, 4), slice(2, 6))
    assert central_square((9, 4)) == (slice(2, 6), slice(0, 4))


def test_mask_quality_averages_over_images(annotated):
    metric = METRICS.build(dict(
        type='MaskQuality', ann_file=str(annotated), object_centric=True))
    random = np.random.default_rng(0)
    maps: dict = {}
    each: list = []
    for name in metric.truth.names:
        maps[name] = random.integers(0, 3, metric.truth.size(name))
        found = metric.truth.instances(name)
        each.append(naive(maps[name], found.masks, found.classes,
                          found.crowd))
    scores = metric.evaluate_maps(iter(maps.items()), len(maps))
    for name in ('FG_ARI', 'mBO_i', 'mBO_c'):
        assert scores[f'masks/{name}'] == pytest.approx(
            np.mean([one[name] for one in each]))
