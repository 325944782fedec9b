"""Ids that regions keep from map to map."""
from itertools import permutations

import numpy as np

from cyborgs_plugin.ops.matched_ids import matched_ids, on_one_grid


def test_regions_keep_the_ids_of_those_they_lie_on():
    before = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]])
    # the same with other names, one region split, at twice the size
    names = np.array([5, 0, 3, 2])
    after = names[before].repeat(2, 0).repeat(2, 1)
    after[0, 0] = 1
    found = matched_ids(after, before)
    expected = before.repeat(2, 0).repeat(2, 1)
    assert (found == expected)[after != 1].all()
    assert found[0, 0] > 3


def test_partitions_stay_the_same():
    random = np.random.default_rng(0)
    ids, before = random.integers(0, 9, (2, 12, 16))
    found = matched_ids(ids, before)
    pairs = {*zip(ids.ravel(), found.ravel())}
    assert len(pairs) == len(np.unique(ids)) == len(np.unique(found))


def test_no_other_pairs_share_more_cells():
    random = np.random.default_rng(1)
    for _ in range(20):
        ids, before = random.integers(0, 4, (2, 5, 6))
        kept = (matched_ids(ids, before) == before).sum()
        assert kept == max((np.array(names)[ids] == before).sum()
                           for names in permutations(range(4)))


def test_a_region_elsewhere_does_not_take_an_id_that_is_free():
    before = np.array([[0, 1, 2]])
    found = matched_ids(np.array([[0, 0, 1, 0, 2, 2]]), before)
    assert found[0, [0, 1, 3]].tolist() == [0, 0, 0]
    assert found[0, 4] == 2 and found[0, 2] == 1
    # 1 is free, but the new region shares no cell with it
    found = matched_ids(np.array([[0, 0, 3]]), np.array([[0, 0, 0]]) + 4)
    assert sorted(np.unique(found)) == [4, 5]


def test_the_finest_grid():
    maps = np.arange(2).reshape(1, 2), np.zeros((3, 1), int)
    first, second = on_one_grid(*maps)
    assert first.tolist() == [[0, 1]] * 3 and second.shape == (3, 2)
    assert on_one_grid() == []
