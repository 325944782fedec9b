"""k-means in torch: Lloyd's iterations on samples that double in size."""
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_CHUNK = 4096
"""Points whose distances are held at a time; on a GPU as many more ..."""
_DISTANCES = 1 << 23
"""... as keep so many distances."""
_SAMPLE = 4096
"""Fewest points of a sample, and ..."""
_SAMPLE_PER_CLUSTER = 32
"""... fewest points of a sample for each cluster."""
_STEP = 1.8
"""How far a centroid moves towards its mean, on samples."""
_REFILLS = 8


def kmeans(points: Tensor,
           num_clusters: int,
           num_iters: int = 20,
           seed: int = 0,
           init: str = 'random',
           weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cluster points by Euclidean distance.

    Lloyd's iterations start from random points, as in CYBORGS, Sec. 3.3, or
    from those of k-means++ (Arthur and Vassilvitskii, 2007), but run on
    samples: half of the iterations use an eighth of the points, half of the
    remaining ones a quarter, then a half, and the rest use all. A sample shows
    where centroids move nearly as well as all points, at a fraction of the
    cost. On samples, a centroid moves 1.8 times as far as to its mean
    (over-relaxation; 2 is the limit of stability), which saves iterations; on
    all points it moves to the mean. Few points (fewer than 8192, or than 64
    per cluster) are not sampled: that is plain Lloyd. An iteration that
    changes no label ends its stage. An empty cluster takes the point farthest
    from its centroid. See docs/mask_update.md for measurements.

    The result depends only on the arguments, not on the number of threads;
    another type of processor may round differently.

    Args:
        points (Tensor): Shape (M, D), floating point, finite.
        num_clusters (int): Number of clusters K, 1 to M.
        num_iters (int): Largest number of iterations. Defaults to 20.
        seed (int): Determines samples and initial centroids, in the same way
            on any device. Defaults to 0.
        init (str): 'random', or 'k-means++', whose initial centroids are far
            apart, so that few clusters share one dense region. Defaults to
            'random'.
        weights (Tensor, optional): How often each point counts, shape (M, ),
            above 0. Defaults to None, once.

    Returns:
        tuple[Tensor, Tensor]: The nearest centroid of each point, shape
        (M, ), int64, and the centroids, shape (K, D), dtype of ``points``.

    Raises:
        ValueError: If ``points`` is not a finite (M, D) tensor, K is not
            between 1 and M, ``init`` is unknown, or weights are not (M, ) or
            not above 0.
    """
    if init not in ('random', 'k-means++'):
        raise ValueError("init must be 'random' or 'k-means++', but is "
                         f'{init!r}')
    if points.ndim != 2 or not points.is_floating_point():
        raise ValueError('points must be a floating point tensor (M, D), but '
                         f'got {tuple(points.shape)} of {points.dtype}')
    if not 1 <= num_clusters <= len(points):
        raise ValueError(
            f'num_clusters must lie between 1 and the number of points '
            f'{len(points)}, but got {num_clusters}')
    if weights is not None and not (
            weights.shape == points.shape[:1] and weights.min() > 0
            and torch.isfinite(weights.sum())):
        raise ValueError('weights must be a finite number above 0 for each '
                         f'of {len(points)} points, but got '
                         f'{tuple(weights.shape)}')
    dtype = points.dtype
    if dtype.itemsize < 4:
        points = points.float()
    mean = points.mean(dim=0)
    if not torch.isfinite(mean.sum()):
        raise ValueError('points hold NaN or infinite values')
    # Drawn on the CPU, so that all devices start from the same points.
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(points), generator=generator).to(points.device)
    # Samples are the first of the shuffled points, without a copy; near the
    # origin the products below lose no digits to a common offset.
    shuffled = points[order].sub_(mean)
    if weights is not None:
        weights = weights[order.to(weights.device)].to(shuffled)
    stages = _stages(len(points), num_clusters, num_iters)
    with _fast_products():
        first = stages[0][0]
        if init == 'k-means++':
            centroids = _far_apart(shuffled[:first], num_clusters, generator,
                                   None if weights is None else
                                   weights[:first])
        elif weights is None:
            centroids = shuffled[:num_clusters].clone()
        else:
            centroids = shuffled[torch.multinomial(
                weights[:first].cpu(), num_clusters, generator=generator)]
        for size, iters, step in stages:
            centroids = _lloyd(shuffled[:size], centroids, iters, step,
                               None if weights is None else weights[:size])
    for _ in range(_REFILLS):
        result = (centroids + mean).to(dtype)
        # In the caller's precision, so that labels are those of the nearest.
        centroids = result.to(mean.dtype) - mean
        nearest, distances = _assign(shuffled, centroids)
        empty = _sizes(nearest, num_clusters) == 0
        holes = int((empty * (distances.max() > 0)).sum())
        if not holes:
            break
        centroids[empty] = _farthest(shuffled, distances, holes)
    labels = torch.empty_like(nearest)
    labels[order] = nearest
    return labels, result


def _stages(num_points: int, num_clusters: int,
            num_iters: int) -> list[tuple[int, int, float]]:
    """Points, iterations and step of each stage; the last has all points."""
    smallest = max(_SAMPLE, _SAMPLE_PER_CLUSTER * num_clusters)
    stages = []
    for part in (8, 4, 2):
        if num_points // part >= smallest:
            stages.append((num_points // part, num_iters // 2, _STEP))
            num_iters -= num_iters // 2
    return [*stages, (num_points, num_iters, 1.)]


@contextmanager
def _fast_products() -> Iterator[None]:
    """Let matrix products use the fastest precision of the hardware.

    This is TF32 on a GPU, and oneDNN on a CPU, in bfloat16 if the CPU supports
    it. Sums stay in float32.
    """
    # In this order: that of CUDA in torch 2.1 must not be asked in vain.
    backends: list[Any] = [
        getattr(torch.backends.mkldnn, 'matmul', None),
        torch.backends.cuda.matmul
    ]
    if all(hasattr(backend, 'fp32_precision') for backend in backends):
        # torch 2.9: where a program has set these, the older functions raise.
        precisions = [backend.fp32_precision for backend in backends]
        try:
            for backend, fast in zip(backends, ('bf16', 'tf32')):
                backend.fp32_precision = fast
            yield
        finally:
            for backend, precision in zip(backends, precisions):
                backend.fp32_precision = precision
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _far_apart(points: Tensor, num_clusters: int,
               generator: torch.Generator,
               weights: Tensor | None = None) -> Tensor:
    """Draw centroids (K, D) by k-means++, the best of a few at each step.

    A point is drawn with a probability proportional to its squared distance
    from the nearest centroid so far, times its weight. Of 2 + log(K) such
    points, the one that leaves the smallest sum of these is chosen, as in
    scikit-learn. Its ``kmeans_plusplus`` takes five times as long and accepts
    no GPU tensors.
    """
    trials = 2 + int(math.log(num_clusters))
    norms = points.square().sum(dim=1)
    times = torch.ones_like(norms) if weights is None else weights
    chosen = [0]  # the points are shuffled
    if weights is not None:
        chosen = torch.multinomial(
            weights.cpu(), 1, generator=generator).tolist()
    nearest = _squared(points, norms, chosen)[:, 0]
    nearest[chosen] = 0
    while len(chosen) < num_clusters:
        # On the CPU, where a running sum is the same each time.
        reach = (nearest * times).cpu().double().cumsum(dim=0)
        drawn = torch.rand(trials, dtype=torch.float64, generator=generator)
        # Above 0: the end of an interval that is not empty.
        drawn = (1 - drawn) * reach[-1]
        candidates = torch.searchsorted(reach, drawn).tolist()
        closer = torch.minimum(
            _squared(points, norms, candidates), nearest[:, None])
        best = int((closer * times[:, None]).sum(dim=0).argmin())
        nearest = closer[:, best]
        chosen.append(candidates[best])
        nearest[chosen[-1]] = 0  # fast products leave a rest
    return points[chosen]


def _squared(points: Tensor, norms: Tensor, others: list[int]) -> Tensor:
    """Squared distances of all points (M, D) from some, (M, L)."""
    squared = torch.addmm(norms[others], points, points[others].T, alpha=-2)
    return squared.add_(norms[:, None]).clamp_(min=0)


def _lloyd(points: Tensor, centroids: Tensor, num_iters: int,
           step: float, weights: Tensor | None = None) -> Tensor:
    """Iterate from centroids (K, D) to better ones."""
    labels = torch.full_like(points[:, 0], -1, dtype=torch.int64)
    weighted = points if weights is None else points * weights[:, None]
    for _ in range(num_iters):
        previous = labels
        labels, distances = _assign(points, centroids)
        sizes = _sizes(labels, len(centroids))
        empty = sizes == 0
        # The only wait for the device.
        changed, holes = torch.stack(
            [(labels != previous).sum(), empty.sum()]).tolist()
        if not changed:
            break
        if weights is None:
            counts = sizes[:, None]
        else:  # in double, which TF32 leaves alone
            counts = sums_by_label(weights[:, None].double(), labels,
                                   len(centroids)).to(points.dtype)
        means = sums_by_label(weighted, labels, len(centroids)) / counts
        centroids = torch.lerp(centroids, means, step)
        if holes:
            centroids[empty] = _farthest(points, distances, holes)
    return centroids


def _assign(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid and squared distance less the point's norm, (M, )."""
    norms = centroids.square().sum(dim=1)
    nearest = [
        torch.addmm(norms, chunk, centroids.T, alpha=-2).min(dim=1)
        for chunk in points.split(_chunk(points, len(centroids)))
    ]
    return (torch.cat([part.indices for part in nearest]),
            torch.cat([part.values for part in nearest]))


def sums_by_label(points: Tensor, labels: Tensor,
                  num_clusters: int) -> Tensor:
    """Sum the points of each cluster, always in the same order.

    Args:
        points (Tensor): Shape (M, D).
        labels (Tensor): Cluster of each, 0 to K - 1, shape (M, ), int64.
        num_clusters (int): K.

    Returns:
        Tensor: Shape (K, D), dtype of ``points``.
    """
    if points.device.type != 'cpu':
        # There index_add_ adds in no fixed order: runs would not be
        # reproducible.
        return _sums_by_products(points, labels, num_clusters)
    sums = points.new_zeros(num_clusters, points.shape[1])
    return sums.index_add_(0, labels, points)


def _sums_by_products(points: Tensor, labels: Tensor,
                      num_clusters: int) -> Tensor:
    """The same, by matrix products."""
    sums = points.new_zeros(num_clusters, points.shape[1])
    ids = torch.arange(num_clusters, device=points.device)
    size = _chunk(points, num_clusters)
    for part, chunk in zip(labels.split(size), points.split(size)):
        sums.addmm_((part == ids[:, None]).to(chunk.dtype), chunk)
    return sums


def _sizes(labels: Tensor, num_clusters: int) -> Tensor:
    """The number of points in each cluster, (K, ), int64."""
    if labels.device.type == 'cpu':
        return torch.bincount(labels, minlength=num_clusters)
    # There bincount makes the host wait.
    ids = torch.arange(num_clusters, device=labels.device)[:, None]
    return torch.stack([(part == ids).sum(dim=1)
                        for part in labels.split(
                            _chunk(labels, num_clusters))]).sum(dim=0)


def _chunk(points: Tensor, num_clusters: int) -> int:
    """The number of points that are processed at a time."""
    if points.device.type == 'cpu':
        return _CHUNK
    return max(_CHUNK, _DISTANCES // num_clusters)


def _farthest(points: Tensor, distances: Tensor, count: int) -> Tensor:
    """The points farthest from their centroids, (count, D)."""
    return points[(distances + points.square().sum(dim=1)).topk(count).indices]
