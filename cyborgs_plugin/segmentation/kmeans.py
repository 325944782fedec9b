"""k-means in torch: plain Lloyd iterations, the same on every device."""
from typing import Tuple

import torch
from torch import Tensor

_CHUNK = 16384
"""Points whose distances are held at a time."""


def kmeans(points: Tensor,
           num_clusters: int,
           num_iters: int = 20,
           seed: int = 0) -> Tuple[Tensor, Tensor]:
    """Cluster points by Euclidean distance.

    Lloyd's iterations from random distinct points, as in CYBORGS, Sec. 3.3.
    It ends early where the labels settle. A cluster that runs empty takes
    the point farthest from its centroid.

    Args:
        points (Tensor): Shape (M, D), floating point, finite.
        num_clusters (int): Number of clusters K, 1 to M.
        num_iters (int): Largest number of iterations. Defaults to 20.
        seed (int): Decides the initial centroids, on any device alike.
            Defaults to 0.

    Returns:
        Tuple[Tensor, Tensor]: The nearest centroid of each point, shape
        (M, ), int64, and the centroids, shape (K, D), dtype of ``points``.

    Raises:
        ValueError: If ``points`` is not a finite (M, D) tensor or K is not
            between 1 and M.
    """
    if points.ndim != 2 or not points.is_floating_point():
        raise ValueError('points must be a floating point tensor (M, D), but '
                         f'got {tuple(points.shape)} of {points.dtype}')
    if not 1 <= num_clusters <= len(points):
        raise ValueError(
            f'num_clusters must lie between 1 and the number of points '
            f'{len(points)}, but got {num_clusters}')
    if not torch.isfinite(points.sum()):
        raise ValueError('points hold NaN or infinite values')
    # Drawn on the CPU, so that all devices start alike.
    generator = torch.Generator().manual_seed(seed)
    start = torch.randperm(len(points), generator=generator)[:num_clusters]
    centroids = points[start.to(points.device)]
    labels, distances = _assign(points, centroids)
    for _ in range(num_iters):
        centroids = _means(points, labels, distances, num_clusters)
        previous = labels
        labels, distances = _assign(points, centroids)
        if torch.equal(labels, previous):
            break
    return labels, centroids


def _assign(points: Tensor, centroids: Tensor) -> Tuple[Tensor, Tensor]:
    """Nearest centroid and squared distance less the point's norm, (M, )."""
    norms = centroids.square().sum(dim=1)
    nearest = [
        torch.addmm(norms, chunk, centroids.T, alpha=-2).min(dim=1)
        for chunk in points.split(_CHUNK)
    ]
    return (torch.cat([part.indices for part in nearest]),
            torch.cat([part.values for part in nearest]))


def _means(points: Tensor, labels: Tensor, distances: Tensor,
           num_clusters: int) -> Tensor:
    """Mean of each cluster; the farthest points where there is none."""
    sums = points.new_zeros(num_clusters, points.shape[1])
    sums.index_add_(0, labels, points)
    counts = torch.bincount(labels, minlength=num_clusters)
    centroids = sums / counts.clamp(min=1)[:, None].to(sums.dtype)
    empty = (counts == 0).nonzero().squeeze(1)
    if len(empty):
        spread = distances + points.square().sum(dim=1)
        centroids[empty] = points[spread.topk(len(empty)).indices]
    return centroids
