"""Objects among regions, against scipy's and scikit-image's components."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy import ndimage

from cyborgs_plugin.ops.instances import components, find_instances

maps = nps.arrays(np.uint8, nps.array_shapes(min_dims=2, max_dims=2,
                                             min_side=1, max_side=9),
                  elements=st.integers(0, 3))


@settings(deadline=None)
@given(maps)
def test_components_are_those_of_scipy_region_by_region(ids):
    found = components(ids)
    assert found.dtype == np.int64 and found.min() == 0
    assert {*np.unique(found)} == {*range(found.max() + 1)}
    expected = []
    for region in np.unique(ids):
        parts, count = ndimage.label(ids == region)
        expected += [(parts == part).tobytes()
                     for part in range(1, count + 1)]
    assert sorted(expected) == sorted(
        (found == part).tobytes() for part in range(found.max() + 1))


def blocks():
    """A large region at the border, two squares of one id, and a speck."""
    ids = np.zeros((20, 20), np.uint8)
    ids[2:8, 2:8] = ids[10:18, 10:18] = 1
    ids[0, 19] = 2
    return ids


def test_sizes_and_borders_leave_the_squares():
    found = find_instances(blocks())
    assert sorted(each.cells.sum() for each in found) == [36, 64]
    assert all(each.score == 1 for each in found)
    assert len(find_instances(blocks(), min_area=0.1)) == 1
    assert len(find_instances(blocks(), max_area=0.1)) == 1
    # the rest fills 0.75 of the image and almost all of its border
    assert len(find_instances(blocks(), max_area=1)) == 2
    assert len(find_instances(blocks(), max_area=1, max_border=1)) == 3
    assert len(find_instances(blocks(), min_area=0)) == 3


@settings(deadline=None)
@given(maps, st.data())
def test_the_score_is_the_best_overlap_by_a_loop(ids, data):
    others = [
        data.draw(nps.arrays(np.uint8, ids.shape,
                             elements=st.integers(0, 3))) for _ in range(2)
    ]
    found = find_instances(ids, others, 0, 1, 0, 1)
    assert len(found) == components(ids).max() + 1
    for cells, score in found:
        best = []
        for other in others:
            parts = components(other)
            best.append(max(
                (cells & (parts == part)).sum() / (cells | (parts == part)
                                                   ).sum()
                for part in range(parts.max() + 1)))
        assert score == pytest.approx(np.mean(best))
    scores = [each.score for each in found]
    assert scores == sorted(scores, reverse=True)


def test_what_is_found_again_is_kept():
    other = np.zeros((10, 10), np.uint8)  # half the size
    other[1:4, 1:4] = 3
    found, = find_instances(blocks(), [other])
    assert found.cells.sum() == 36 and found.score == 1
