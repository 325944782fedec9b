"""k-means against scikit-learn and a naive loop."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from cyborgs_plugin.segmentation.kmeans import kmeans


def blobs(seed=0, num=600, dim=8, centres=7):
    random = np.random.default_rng(seed)
    middle = random.normal(size=(centres, dim)) * 4
    points = middle[random.integers(centres, size=num)]
    points = points + random.normal(size=points.shape)
    return torch.from_numpy(points)


def inertia(points, labels, centroids):
    return (points - centroids[labels]).square().sum().item()


@pytest.mark.parametrize('seed', range(5))
def test_equals_lloyd_of_sklearn_from_the_same_start(seed):
    points = blobs(seed)
    generator = torch.Generator().manual_seed(seed)
    start = points[torch.randperm(len(points), generator=generator)[:7]]
    labels, centroids = kmeans(points, 7, num_iters=100, seed=seed)
    oracle = KMeans(
        7, init=start.numpy(), n_init=1, max_iter=100, tol=0,
        algorithm='lloyd').fit(points.numpy())
    assert inertia(points, labels, centroids) == pytest.approx(
        oracle.inertia_, rel=1e-6)
    np.testing.assert_array_equal(labels, oracle.labels_)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30))
def test_labels_are_the_nearest_centroids(seed, num_clusters, extra):
    torch.manual_seed(seed)
    points = torch.randn(num_clusters + extra, 3, dtype=torch.float64)
    labels, centroids = kmeans(points, num_clusters, seed=seed)
    assert labels.shape == (len(points), ) and labels.dtype == torch.int64
    assert centroids.shape == (num_clusters, 3)
    distances = torch.cdist(points, centroids)
    torch.testing.assert_close(
        distances.gather(1, labels[:, None])[:, 0],
        distances.min(dim=1).values)


def test_more_iterations_never_hurt():
    points = blobs(3, 2000)
    values = [
        inertia(points, *kmeans(points, 20, num_iters=n, seed=1))
        for n in range(0, 12)
    ]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(values, values[1:]))


def test_seed_decides_and_global_state_does_not():
    points = blobs()
    torch.manual_seed(1)
    one = kmeans(points, 5, seed=3)
    torch.manual_seed(2)
    two = kmeans(points, 5, seed=3)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(kmeans(points, 5, seed=4)[1], one[1])


def test_duplicates_and_k_equal_to_m():
    points = torch.ones(10, 2)
    labels, centroids = kmeans(points, 3)
    assert torch.isfinite(centroids).all() and labels.max() < 3
    distinct = torch.arange(6.)[:, None]
    labels, _ = kmeans(distinct, 6)
    assert sorted(labels.tolist()) == list(range(6))


@pytest.mark.parametrize('points, num_clusters, match',
                         [(torch.zeros(3, 2), 4, 'num_clusters'),
                          (torch.zeros(3, 2), 0, 'num_clusters'),
                          (torch.zeros(3), 1, 'M, D'),
                          (torch.zeros(3, 2).int(), 1, 'floating'),
                          (torch.full((3, 2), float('nan')), 1, 'NaN')])
def test_bad_input(points, num_clusters, match):
    with pytest.raises(ValueError, match=match):
        kmeans(points, num_clusters)
