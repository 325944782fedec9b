"""k-means of many small sets of points at once."""
import torch
from torch import Tensor


def kmeans_of_each(points: Tensor,
                   num_clusters: int,
                   num_iters: int = 5,
                   generator: torch.Generator | None = None) -> Tensor:
    """Cluster each set of points by itself, by Euclidean distance.

    Lloyd's iterations start from K random points, whose places are drawn once
    for all sets. Distances to means follow from the inner products of all
    pairs of points, which are computed once; so an iteration costs the same
    however wide the points are, and the memory is that of these products. No
    sum depends on an order, and the host never waits for the device. A cluster
    that loses its last point stays empty.

    Args:
        points (Tensor): B sets, shape (B, M, D), float32 or float64, finite.
        num_clusters (int): Largest number of clusters K, lowered to M.
        num_iters (int): Number of iterations. Defaults to 5.
        generator (torch.Generator, optional): On the device of ``points``.
            Defaults to None, the device's global one.

    Returns:
        Tensor: The cluster of each point, 0 to K - 1, shape (B, M), int64. Of
        clusters at the same distance the lowest is taken.
    """
    num_points = points.shape[1]
    products = points @ points.transpose(1, 2)  # (B, M, M)
    first = torch.rand(
        num_points, generator=generator,
        device=points.device).argsort()[:num_clusters]  # (K, )
    clusters = torch.arange(len(first), device=points.device)
    own = products.diagonal(dim1=1, dim2=2)  # (B, M)
    # The nearest mean m of a point p is that of the largest 2 pm - mm.
    near = 2 * products[:, :, first] - own[:, None, first]  # (B, M, K)
    labels = near.argmax(dim=2)
    for _ in range(num_iters):
        member = (labels[:, :, None] == clusters).to(points.dtype)  # (B, M, K)
        sizes = member.sum(dim=1, keepdim=True)  # (B, 1, K)
        share = member / sizes.clamp(min=1)
        to_means = products @ share  # (B, M, K)
        means = (share * to_means).sum(dim=1, keepdim=True)  # (B, 1, K)
        near = (2 * to_means - means).masked_fill_(sizes == 0, -torch.inf)
        labels = near.argmax(dim=2)
    return labels
