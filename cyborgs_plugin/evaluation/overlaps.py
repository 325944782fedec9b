"""Overlaps of objects with regions."""
import numpy as np


def best_overlaps(ids: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Find how well the best region fits each object.

    Args:
        ids (np.ndarray): Region of each pixel, 0 to R - 1, shape (H, W) or
            (P, ), integer.
        masks (np.ndarray): Objects, shape (N, H, W) or (N, P), bool, none of
            them empty.

    Returns:
        np.ndarray: Largest intersection over union with one region, shape
        (N, ), float64.
    """
    sizes = np.bincount(ids.reshape(-1))
    best = np.zeros(len(masks))
    for index, mask in enumerate(masks):
        inside = np.bincount(ids[mask], minlength=len(sizes))
        best[index] = (inside / (sizes + mask.sum() - inside)).max()
    return best
