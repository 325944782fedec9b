"""Ids that regions keep from one label map of an image to the next."""
import numpy as np
from scipy.optimize import linear_sum_assignment

from .label_maps import resize_label_map


def on_one_grid(*label_maps: np.ndarray) -> list[np.ndarray]:
    """Bring label maps of one image to the finest grid among them.

    Args:
        *label_maps (np.ndarray): Integer, each (h_i, w_i), covering the whole
            image.

    Returns:
        list[np.ndarray]: The maps, all (max h_i, max w_i), same dtypes.
    """
    if not label_maps:
        return []
    height, width = np.max([ids.shape for ids in label_maps], axis=0)
    return [resize_label_map(ids, (height, width)) for ids in label_maps]


def matched_ids(ids: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Give regions the ids of those they cover, one to one.

    The pairs are chosen so that together they share as many cells as
    possible (the Hungarian method). A region that is left over, or shares no
    cell with its partner, gets an id above all of ``previous``.

    Args:
        ids (np.ndarray): Label map, integer, (h, w).
        previous (np.ndarray): Another one of the same image, (h', w').

    Returns:
        np.ndarray: The regions of ``ids`` by their new ids, int64, (h, w).
    """
    before = resize_label_map(previous, ids.shape)
    regions, cells = np.unique(ids, return_inverse=True)
    fresh = int(previous.max()) + 1
    shared = np.zeros((len(regions), fresh))
    np.add.at(shared, (cells.reshape(-1), before.reshape(-1)), 1)
    # An id of its own is worth less than one shared cell, but more than none.
    own = np.full((len(regions), len(regions)), 0.5)
    found = linear_sum_assignment(
        np.concatenate([shared, own], 1), maximize=True)[1]
    own_ids = found >= fresh
    found[own_ids] = fresh + np.arange(own_ids.sum())
    return found[cells.reshape(ids.shape)]
