"""Hierarchical clustering against scikit-learn and a loop."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.segmentation import linkage as file
from cyborgs_plugin.segmentation.linkage import LINKAGES, clusters, merges


def points_of(total, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(total, 4)).astype('f'))


@pytest.mark.parametrize('linkage', LINKAGES)
@pytest.mark.parametrize('count', [2, 3, 8, 39])
def test_equals_scikit_learn(linkage, count):
    points = points_of(40)
    expected = AgglomerativeClustering(
        count, linkage=linkage).fit_predict(points.double().numpy())
    found = clusters(merges(points, linkage, 'a'), count)
    assert found.dtype == torch.int64
    assert adjusted_rand_score(expected, found) == 1


def test_the_nearest_on_average_are_merged():
    points = points_of(12).double()
    groups = [[number] for number in range(12)]
    while len(groups) > 4:
        pairs = [(torch.cdist(points[a], points[b]).mean(), i, j)
                 for i, a in enumerate(groups)
                 for j, b in enumerate(groups[:i])]
        _, i, j = min(pairs)
        groups[j] += groups.pop(i)
    labels = np.empty(12)
    for number, group in enumerate(groups):
        labels[group] = number
    found = clusters(merges(points, 'average', 'a'), 4)
    assert adjusted_rand_score(labels, found) == 1


@settings(max_examples=20, deadline=None)
@given(total=st.integers(1, 30), count=st.integers(1, 30),
       linkage=st.sampled_from(LINKAGES), alike=st.booleans(),
       seed=st.integers(0, 99))
def test_as_many_as_asked_for(total, count, linkage, alike, seed):
    count = min(count, total)
    points = torch.ones(total, 2) if alike else points_of(total, seed)
    found = clusters(merges(points, linkage, 'a'), count)
    assert found.unique().tolist() == [*range(count)]
    if not alike:  # their order changes nothing
        order = np.random.default_rng(seed).permutation(total)
        moved = clusters(merges(points[order], linkage, 'a'), count)
        assert adjusted_rand_score(found[order], moved) == 1


def test_one_of_more_is_never_two_of_fewer():
    tree = merges(points_of(30), 'average', 'a')
    few, many = clusters(tree, 5), clusters(tree, 12)
    for number in range(12):
        assert len(few[many == number].unique()) == 1


def test_too_many_superpixels_name_what_to_change(monkeypatch):
    monkeypatch.setattr(file, '_MOST', 10)
    with pytest.raises(UserError, match="'a.jpg' has 11 .*group_size"):
        merges(points_of(11), 'average', 'a.jpg')
