"""k-means against scikit-learn, faiss and a naive loop."""
import subprocess
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans, kmeans_plusplus

from cyborgs_plugin.ops.kmeans import (
    _stages,
    _sums_by_products,
    kmeans,
    sums_by_label,
)

from ..helpers import ROOT
from ..warm_python import python


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
    assert _stages(len(points), 7, 100) == [(len(points), 100, 1.)]
    oracle = KMeans(
        7, init=start.numpy(), n_init=1, max_iter=100, tol=0,
        algorithm='lloyd').fit(points.numpy())
    assert inertia(points, labels, centroids) == pytest.approx(
        oracle.inertia_, rel=1e-6)
    np.testing.assert_array_equal(labels, oracle.labels_)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30),
    st.sampled_from(['random', 'k-means++']))
def test_labels_are_the_nearest_centroids(seed, num_clusters, extra, init):
    torch.manual_seed(seed)
    points = torch.randn(num_clusters + extra, 3, dtype=torch.float64)
    labels, centroids = kmeans(points, num_clusters, seed=seed, init=init)
    assert labels.shape == (len(points), ) and labels.dtype == torch.int64
    assert centroids.shape == (num_clusters, 3)
    distances = torch.cdist(points, centroids)
    torch.testing.assert_close(
        distances.gather(1, labels[:, None])[:, 0],
        distances.min(dim=1).values)


@pytest.mark.parametrize('num_points', [600, 40000])
def test_plusplus_starts_as_well_as_that_of_sklearn(num_points):
    """Before any iteration; and it finds every blob, as random does not."""
    points = blobs(5, num_points, centres=20).float()
    found: dict = {'random': [], 'k-means++': [], 'sklearn': []}
    for seed in range(20):
        for init in ('random', 'k-means++'):
            found[init].append(inertia(points, *kmeans(
                points, 20, num_iters=0, seed=seed, init=init)))
        start = kmeans_plusplus(points.numpy(), 20, random_state=seed)[0]
        found['sklearn'].append(
            torch.cdist(points, torch.from_numpy(start)).min(
                dim=1).values.square().sum().item())
    means = {init: np.mean(values) for init, values in found.items()}
    assert means['k-means++'] == pytest.approx(means['sklearn'], rel=0.1)
    assert means['k-means++'] < 0.7 * means['random']


def test_plusplus_ends_below_random():
    points = mixture(6)
    ends = {
        init: np.mean([
            inertia(points, *kmeans(points, 40, seed=seed, init=init))
            for seed in range(4)
        ]) for init in ('random', 'k-means++')
    }
    assert ends['k-means++'] < ends['random']


def test_no_such_init():
    with pytest.raises(ValueError, match="'k-means\\+\\+'.*'kmeans'"):
        kmeans(blobs(), 3, init='kmeans')


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


def mixture(seed, num=24000, dim=16):
    """Overlapping clusters of unequal size and spread, as features are."""
    random = np.random.default_rng(seed)
    middle = random.normal(size=(60, dim))
    spread = random.uniform(0.3, 1., size=(60, 1))
    which = random.choice(60, size=num, p=random.dirichlet(np.ones(60)))
    points = middle[which] + spread[which] * random.normal(size=(num, dim))
    return torch.from_numpy(points.astype(np.float32))


@pytest.mark.parametrize('num_clusters', [2, 20, 90])
def test_samples_lose_nothing_to_faiss(num_clusters):
    """The published k-means: 20 iterations of all points."""
    points = mixture(0)
    assert len(_stages(len(points), num_clusters, 20)) > 1
    ours, theirs = [], []
    for seed in range(4):
        ours.append(inertia(points, *kmeans(points, num_clusters, seed=seed)))
        oracle = faiss.Kmeans(
            16, num_clusters, niter=20, seed=seed,
            max_points_per_centroid=len(points))
        oracle.train(points.numpy())
        theirs.append(oracle.index.search(points.numpy(), 1)[0].sum())
    assert np.mean(ours) <= 1.01 * np.mean(theirs)


def test_stages_share_the_iterations():
    assert _stages(80000, 129, 20) == [(10000, 10, 1.8), (20000, 5, 1.8),
                                       (40000, 2, 1.8), (80000, 3, 1.)]
    assert _stages(40000, 129, 20) == [(5000, 10, 1.8), (10000, 5, 1.8),
                                       (20000, 2, 1.8), (40000, 3, 1.)]
    assert _stages(40000, 256, 20) == [(10000, 10, 1.8), (20000, 5, 1.8),
                                       (40000, 5, 1.)]
    assert _stages(80000, 129, 1)[-1] == (80000, 1, 1.)
    for num_iters in range(40):
        stages = _stages(80000, 129, num_iters)
        assert sum(stage[1] for stage in stages) == num_iters


@pytest.mark.parametrize('num_points', [300, 20000])
def test_a_large_offset_costs_no_digits(num_points):
    """In float32, 10,000 away from the origin."""
    points = mixture(1, num_points) + 1e4
    labels, centroids = kmeans(points, 12, seed=2)
    distances = torch.cdist(points.double(), centroids.double(),
                            compute_mode='donot_use_mm_for_euclid_dist')
    chosen = distances.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(
        chosen, distances.min(dim=1).values, rtol=1e-5, atol=0)
    near = kmeans((points.double() - 1e4), 12, seed=2)
    assert inertia(points.double(), labels, centroids) == pytest.approx(
        inertia(points.double() - 1e4, *near), rel=2e-3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_points(dtype):
    points = mixture(2, 500).to(dtype)
    labels, centroids = kmeans(points, 9)
    assert centroids.dtype == dtype
    distances = torch.cdist(points.double(), centroids.double())
    torch.testing.assert_close(
        distances.gather(1, labels[:, None])[:, 0],
        distances.min(dim=1).values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('init', ['random', 'k-means++'])
@pytest.mark.parametrize('num_points', [500, 20000])
def test_threads_do_not_count(num_points, init):
    points, before = mixture(3, num_points, 64), torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(kmeans(points, 20, seed=1, init=init))
    finally:
        torch.set_num_threads(before)
    for labels, centroids in made[1:]:
        assert torch.equal(labels, made[0][0])
        assert torch.equal(centroids, made[0][1])


def test_torch_without_fp32_precision(monkeypatch):
    """That of CUDA in torch 2.1 raises what hasattr does not expect."""

    class Matmul:
        allow_tf32 = False

        def __getattr__(self, name):
            raise AssertionError('Unknown attribute ' + name)

    monkeypatch.setattr(torch.backends, 'mkldnn', SimpleNamespace())
    monkeypatch.setattr(torch.backends.cuda, 'matmul', Matmul())
    seen = []
    monkeypatch.setattr(torch, 'get_float32_matmul_precision',
                        lambda: 'high')
    monkeypatch.setattr(torch, 'set_float32_matmul_precision', seen.append)
    kmeans(torch.randn(40, 3), 2)
    assert seen == ['medium', 'high']


def test_precision_of_products_is_put_back():
    before = torch.get_float32_matmul_precision()
    kmeans(blobs(), 3)
    assert torch.get_float32_matmul_precision() == before


def test_sums_by_products_equal_additions():
    """What an accelerator does, where additions come in any order."""
    points, random = mixture(4, 9000), torch.Generator().manual_seed(0)
    labels = torch.randint(30, (9000, ), generator=random)
    labels[labels == 7] = 8
    sums = _sums_by_products(points, labels, 30)
    torch.testing.assert_close(sums, sums_by_label(points, labels, 30))
    torch.testing.assert_close(
        sums[3], points[labels == 3].sum(dim=0), rtol=1e-4, atol=1e-3)
    assert not sums[7].any()


def test_one_cluster_is_the_mean():
    points = mixture(5, 20000)
    labels, centroids = kmeans(points, 1)
    assert not labels.any()
    torch.testing.assert_close(centroids[0], points.mean(dim=0))


def test_k_equal_to_m():
    for points in (torch.arange(6.)[:, None], torch.randn(40, 3),
                   torch.zeros(1, 4)):
        labels, centroids = kmeans(points, len(points))
        assert sorted(labels.tolist()) == list(range(len(points)))
        torch.testing.assert_close(centroids[labels], points)


@pytest.mark.parametrize('init', ['random', 'k-means++'])
def test_fewer_distinct_points_than_clusters(init):
    points = torch.tensor([[1., 2], [1, 2], [1, 2], [5, 0]]).repeat(5, 1)
    labels, centroids = kmeans(points, 6, init=init)
    assert torch.isfinite(centroids).all()
    torch.testing.assert_close(centroids[labels], points)


@pytest.mark.parametrize('num_points', [200, 20000])
def test_no_cluster_is_empty_for_want_of_a_start(num_points):
    """Nearly all points are the same, so nearly all starts are."""
    points = torch.zeros(num_points, 2)
    points[:12] = torch.randn(12, 2, generator=torch.Generator()
                              .manual_seed(0)) * 5
    labels, centroids = kmeans(points, 10)
    assert len(labels.unique()) == 10
    assert torch.isfinite(centroids).all()


@pytest.mark.parametrize('points, num_clusters, match',
                         [(torch.zeros(3, 2), 4, 'num_clusters'),
                          (torch.zeros(3, 2), 0, 'num_clusters'),
                          (torch.zeros(3), 1, 'M, D'),
                          (torch.zeros(3, 2).int(), 1, 'floating'),
                          (torch.full((3, 2), float('nan')), 1, 'NaN')])
def test_bad_input(points, num_clusters, match):
    with pytest.raises(ValueError, match=match):
        kmeans(points, num_clusters)


@pytest.mark.parametrize('seed', range(3))
def test_weights_equal_sample_weight_of_sklearn(seed):
    points = blobs(seed)
    weights = torch.from_numpy(
        np.random.default_rng(seed).integers(1, 40, 600).astype(float))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(600, generator=generator)
    start = points[order][torch.multinomial(
        weights[order], 7, generator=generator)]
    labels, centroids = kmeans(points, 7, 100, seed, weights=weights)
    oracle = KMeans(
        7, init=start.numpy(), n_init=1, max_iter=100, tol=0,
        algorithm='lloyd').fit(points.numpy(), sample_weight=weights)
    np.testing.assert_array_equal(labels, oracle.labels_)
    np.testing.assert_allclose(centroids, oracle.cluster_centers_)


@pytest.mark.parametrize('init', ['random', 'k-means++'])
@pytest.mark.parametrize('num_points', [300, 20000])
def test_weights_count_as_repeated_points(num_points, init):
    """The mean of each cluster, and an inertia no worse."""
    points = mixture(7, num_points)
    weights = torch.randint(
        1, 9, (num_points, ), generator=torch.Generator().manual_seed(1))
    often = points.repeat_interleave(weights, dim=0)
    found, naive = [], []
    for seed in range(4):
        labels, centroids = kmeans(points, 9, 60, seed, init, weights)
        for number in range(9):
            mine = often[labels.repeat_interleave(weights) == number]
            torch.testing.assert_close(
                centroids[number], mine.mean(dim=0), rtol=1e-2, atol=5e-2)
        found.append(inertia(often, labels.repeat_interleave(weights),
                             centroids))
        naive.append(inertia(often, *kmeans(often, 9, 60, seed, init)))
    assert np.mean(found) < 1.03 * np.mean(naive)


@pytest.mark.parametrize('init', ['random', 'k-means++'])
def test_heavy_points_are_where_it_starts(init):
    """All points are as far apart, so weights alone decide."""
    points, weights = torch.eye(40), torch.ones(40)
    weights[20:] = 1000
    _, centroids = kmeans(points, 12, num_iters=0, init=init, weights=weights)
    assert centroids[:, 20:].round().sum() >= 11


def test_weights_that_are_equal_change_nothing():
    points = mixture(8, 20000)
    plain = kmeans(points, 1)[1]
    torch.testing.assert_close(
        kmeans(points, 1, weights=torch.full((20000, ), 3.))[1], plain)
    labels = kmeans(points, 5, init='k-means++', weights=torch.ones(20000))[0]
    assert len(labels.unique()) == 5


@pytest.mark.parametrize('weights', [
    torch.ones(599), torch.zeros(600), torch.full((600, ), float('nan')),
    torch.full((600, ), float('inf')), torch.ones(600, 1)])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match='weights must be .*600 points'):
        kmeans(blobs(), 3, weights=weights)


NEWER = """
import torch
from cyborgs_plugin.ops.kmeans import kmeans
cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
cuda.fp32_precision = 'tf32'
seen, mm = [], torch.addmm
torch.addmm = lambda *a, **k: seen.append(
    (cuda.fp32_precision, cpu.fp32_precision)) or mm(*a, **k)
kmeans(torch.randn(50, 4), 3)
assert seen[0] == ('tf32', 'bf16') and seen[-1] == ('tf32', 'none'), seen
assert (cuda.fp32_precision, cpu.fp32_precision) == ('tf32', 'none')
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.backends, 'fp32_precision'),
                    reason='torch < 2.9 has no fp32_precision')
def test_takes_the_newer_setting_of_tf32():
    """The older functions raise where a program has used it, so in its own."""
    subprocess.run([python(), '-c', NEWER], check=True, cwd=ROOT,
                   timeout=100)
