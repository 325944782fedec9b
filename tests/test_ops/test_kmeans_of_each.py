"""k-means of many small sets, against scikit-learn and loops."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from cyborgs_plugin.ops.kmeans_of_each import kmeans_of_each


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def sets(seed, num=4, points=40, dim=6, centres=5):
    """Sets of noisy blobs, each with centres of its own."""
    random = np.random.default_rng(seed)
    middle = random.normal(size=(num, centres, dim)) * 3
    which = random.integers(centres, size=(num, points))
    found = np.take_along_axis(middle, which[:, :, None], 1)
    return torch.from_numpy(found + random.normal(size=found.shape))


def by_loops(points, count, num_iters, seed):
    """Lloyd's iterations, one set, one point and one cluster at a time."""
    start = torch.rand(points.shape[1], generator=seeded(seed)).argsort()
    found = []
    for one in points:
        centres = {k: one[place].clone()
                   for k, place in enumerate(start[:count])}
        for _ in range(num_iters + 1):
            labels = [min(centres, key=lambda k: (point - centres[k])
                          .square().sum().item()) for point in one]
            centres = {k: torch.stack([point for point, label in zip(
                one, labels) if label == k]).mean(0) for k in set(labels)}
        found.append(torch.tensor(labels))
    return torch.stack(found)


@pytest.mark.parametrize('num_iters', [1, 5, 50])
@pytest.mark.parametrize('seed', range(3))
def test_equals_lloyd_of_sklearn_from_the_same_start(seed, num_iters):
    points = sets(seed)
    labels = kmeans_of_each(points, 5, num_iters, seeded(seed))
    start = torch.rand(points.shape[1], generator=seeded(seed)).argsort()[:5]
    for one, found in zip(points, labels):
        oracle = KMeans(5, init=one[start].numpy(), n_init=1, tol=0,
                        max_iter=num_iters, algorithm='lloyd').fit(one.numpy())
        assert len(set(oracle.labels_)) == 5
        np.testing.assert_array_equal(found, oracle.labels_)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 24),
       num_iters=st.integers(0, 6))
def test_equals_loops(seed, count, num_iters):
    """With clusters that lose all of their points, too."""
    points = torch.randn(2, 20, 3, generator=seeded(seed)).double()
    labels = kmeans_of_each(points, count, num_iters, seeded(seed))
    assert torch.equal(labels, by_loops(points, count, num_iters, seed))


def test_points_that_are_all_the_same_are_one_cluster():
    labels = kmeans_of_each(torch.ones(2, 9, 4), 5)
    assert labels.eq(0).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_each_set_is_clustered_alone(seed, count):
    """In any order, and whatever the others are."""
    points = sets(seed, points=16)
    labels = kmeans_of_each(points, count, generator=seeded(seed))
    order = torch.randperm(len(points), generator=seeded(seed))
    assert torch.equal(kmeans_of_each(points[order], count,
                                      generator=seeded(seed)), labels[order])
    alone = kmeans_of_each(points[1:2], count, generator=seeded(seed))
    assert torch.equal(alone[0], labels[1])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_distances_alone_count(seed):
    """Moved, mirrored and enlarged points have the same clusters."""
    points = sets(seed, points=16)
    turn = torch.linalg.qr(torch.randn(
        6, 6, generator=seeded(seed)).double()).Q
    moved = 3 * points @ turn + torch.arange(6)
    assert torch.equal(kmeans_of_each(points, 4, generator=seeded(seed)),
                       kmeans_of_each(moved, 4, generator=seeded(seed)))
