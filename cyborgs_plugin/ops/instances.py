"""Objects among the regions of a label map, without knowing any class."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from skimage.measure import label

from .label_maps import resize_label_map


class Instance(NamedTuple):
    """A connected part of a region."""

    cells: np.ndarray
    """Shape (h, w), bool."""
    score: float
    """Its mean best overlap with the parts in other label maps of the image,
    0 to 1; 1 without others."""


def components(ids: np.ndarray) -> np.ndarray:
    """Number the connected parts of all regions.

    Cells are connected if they share a side and have the same id.

    Args:
        ids (np.ndarray): Label map, integer, (h, w).

    Returns:
        np.ndarray: Part of each cell, int64, (h, w), from 0 on.
    """
    return label(ids.astype(np.int64), background=-1,
                 connectivity=1).astype(np.int64) - 1


def find_instances(ids: np.ndarray,
                   others: Sequence[np.ndarray] = (),
                   min_area: float = 0.01,
                   max_area: float = 0.5,
                   min_score: float = 0.3,
                   max_border: float = 0.5) -> list[Instance]:
    """Choose the parts of regions that may be objects.

    Args:
        ids (np.ndarray): Label map of an image, integer, (h, w).
        others (Sequence[np.ndarray]): Other ones of the same image, from
            other clusterings or rounds, of any size: what is found again in
            them is more likely an object. Defaults to ().
        min_area (float): Smallest share of the image. Defaults to 0.01.
        max_area (float): Largest share of the image. Defaults to 0.5.
        min_score (float): Smallest score. Defaults to 0.3.
        max_border (float): Largest share of the cells at the border of the
            image: what has more is the background. Defaults to 0.5.

    Returns:
        list[Instance]: Those with the highest scores first.
    """
    parts = components(ids)
    count = int(parts.max()) + 1
    areas = np.bincount(parts.reshape(-1), minlength=count) / parts.size
    edge = np.ones(parts.shape, bool)
    edge[1:-1, 1:-1] = False
    borders = np.bincount(parts[edge], minlength=count) / edge.sum()
    scores = np.ones(count)
    if len(others):
        scores = np.mean([_overlaps(parts, other) for other in others], 0)
    kept = ((areas >= min_area) & (areas <= max_area)
            & (scores >= min_score) & (borders <= max_border))
    order = np.argsort(-scores, kind='stable')
    return [Instance(parts == part, float(scores[part]))
            for part in order if kept[part]]


def _overlaps(parts: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Largest intersection over union of each part with one of the other."""
    theirs = components(resize_label_map(other, parts.shape))
    width = int(theirs.max()) + 1
    shared = np.bincount((parts * width + theirs).reshape(-1),
                         minlength=(int(parts.max()) + 1) * width)
    shared = shared.reshape(-1, width)
    union = shared.sum(1, keepdims=True) + shared.sum(0) - shared
    return (shared / union).max(1)
