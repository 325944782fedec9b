"""Hierarchical clustering of superpixels."""
import numpy as np
import torch
from scipy.cluster import hierarchy
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..errors import UserError

LINKAGES = ('average', 'ward')
_MOST = 20_000
"""Points, whose distances take 1.6 GB."""


def merges(points: Tensor, linkage: str, key: str) -> np.ndarray:
    """Merge the two nearest clusters of points until one is left.

    Args:
        points (Tensor): Of shape (S, C).
        linkage (str): What is near: 'average' or 'ward'.
        key (str): Key of the first image, for messages.

    Returns:
        np.ndarray: The merges in their order, (S - 1, 4), as of
        :func:`scipy.cluster.hierarchy.linkage`.

    Raises:
        UserError: If there are more than 20,000 points.
    """
    if len(points) > _MOST:
        raise UserError(
            f'The group of {key!r} has {len(points)} superpixels, but '
            f'linkage={linkage!r} holds the distances of all pairs of at most '
            f'{_MOST}: lower default_hooks.mask_update.group_size, or raise '
            'source.superpixels.min_size')
    if len(points) == 1:
        return np.empty((0, 4))
    return hierarchy.linkage(points.double().cpu().numpy(), linkage)


def clusters(tree: np.ndarray, count: int) -> Tensor:
    """Undo the last merges.

    Args:
        tree (np.ndarray): From :func:`merges`, of S points.
        count (int): Clusters that are left, 1 to S.

    Returns:
        Tensor: Cluster of each point, 0 to ``count - 1``, (S, ), int64.
    """
    total = len(tree) + 1
    kept = total - count
    pairs = tree[:kept, :2].astype(np.int64).ravel()
    merged = total + np.arange(kept).repeat(2)  # row i makes cluster S + i
    graph = coo_array((np.ones(2 * kept), (pairs, merged)),
                      (total + kept, total + kept))
    _, labels = connected_components(graph, directed=False)
    _, labels = np.unique(labels[:total], return_inverse=True)
    return torch.from_numpy(labels.astype(np.int64))
