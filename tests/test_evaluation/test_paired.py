"""Paired comparison of two backbones."""
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import Normalizer, StandardScaler

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation.frozen_features import IGNORE, ProbeFeatures
from cyborgs_plugin.evaluation.paired import (
    hold_out,
    paired_difference,
    retrieve_cells,
    score_split,
)


def scenes(seed, count=12, noise=1.):
    """Maps whose left and right halves are of two classes."""
    random = np.random.default_rng(seed)
    maps = []
    for _ in range(count):
        classes = np.zeros((8, 8), np.uint8)
        classes[:, 4:] = 1
        classes[:2, :2] = IGNORE
        features = random.normal(size=(5, 4, 4)).astype(np.float32) * noise
        features[0, :, 2:] += 2
        maps.append((features, classes))
    return maps


def collected(seed, count=30, noise=1.):
    random = np.random.default_rng(seed)
    kinds = np.arange(3 * count) % 3
    points = random.normal(size=(3 * count, 5)).astype(np.float32) * noise
    points[np.arange(3 * count), kinds] += 3
    presence = random.random((count, 2)) < 0.5
    presence[:2], presence[2:4] = True, False
    vectors = random.normal(size=(count, 5)).astype(np.float32)
    vectors[:, :2] += 4 * presence
    return ProbeFeatures((points, kinds, np.arange(3 * count) // 3),
                         scenes(seed, count, noise), (vectors, presence),
                         (np.arange(count), np.arange(count)))


def test_retrieval_equals_scikit_learn_s_neighbours():
    train, val = scenes(0), scenes(1)

    def cells(maps):
        points = np.concatenate(
            [f.reshape(5, -1).T for f, _ in maps])
        kinds = np.concatenate([c[::2, ::2].reshape(-1) for _, c in maps])
        return points[kinds != IGNORE], kinds[kinds != IGNORE]

    (points, kinds), (queries, truth) = cells(train), cells(val)
    scale = StandardScaler().fit(points)
    unit = Normalizer()
    oracle = KNeighborsClassifier(
        20,
        weights=lambda distances: np.exp((1 - distances**2 / 2) / 0.1))
    oracle.fit(unit.transform(scale.transform(points)), kinds)
    expected = oracle.score(unit.transform(scale.transform(queries)), truth)
    assert retrieve_cells(train, val) == pytest.approx(expected, abs=0.01)


def test_nothing_to_compare():
    blank = [(np.zeros((5, 4, 4), np.float32),
              np.full((8, 8), IGNORE, np.uint8))]
    with pytest.raises(UserError, match='labelled cell'):
        retrieve_cells(blank, scenes(0))


def test_splits_are_the_same_for_each_backbone():
    train, val = collected(0), collected(1)
    first = score_split(train, val, 2, split=3)
    assert first == score_split(train, val, 2, split=3)
    assert set(first) == {'regions', 'segments', 'cells', 'images'}
    others = [score_split(train, val, 2, split=s) for s in range(3)]
    assert any(other != first for other in others)


def test_held_out_images_are_not_learnt_from():
    features = collected(0)
    learnt, scored = hold_out(features, split=1)
    assert len(learnt.maps) == 21 and len(scored.maps) == 9
    assert set(learnt.regions[2]).isdisjoint(scored.regions[2])
    assert len(set(learnt.regions[2]) | set(scored.regions[2])) == 30
    for part in range(2):
        assert len(learnt.images[part]) == 21
        assert len(scored.images[part]) == 9
    rows = np.concatenate([learnt.images[0], scored.images[0]])
    assert len(np.unique(rows, axis=0)) == 30
    maps = [*learnt.maps, *scored.maps]
    assert len({id(features) for features, _ in maps}) == 30
    again, _ = hold_out(features, split=1)
    assert (again.regions[2] == learnt.regions[2]).all()


def test_noise_makes_each_score_worse():
    clear = score_split(collected(0), collected(1), 2, 0)
    noisy = score_split(collected(0, noise=6.), collected(1, noise=6.), 2, 0)
    for name in ('regions', 'segments', 'cells'):
        assert noisy[name] < clear[name]


def test_a_probe_without_enough_images_is_left_out():
    train, val = collected(0), collected(1, count=3)
    assert 'images' not in score_split(train, val, 2, 0)


def test_paired_differences():
    start = [dict(a=0.1, b=1.), dict(a=0.5, b=1.), dict(a=0.9, b=1.)]
    end = [dict(a=0.2, b=0.), dict(a=0.6, b=1.), dict(a=1.0, b=2.)]
    found = paired_difference(start, end)
    assert found['a'] == (pytest.approx(0.1), pytest.approx(0, abs=1e-9))
    assert found['b'] == (pytest.approx(0), pytest.approx(1 / np.sqrt(3)))
    assert np.isnan(paired_difference(start[:1], end[:1])['a'][1])
