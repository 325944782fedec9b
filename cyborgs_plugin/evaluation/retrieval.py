"""Segmentation by the nearest cells of other images, without training."""
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .frozen_features import IGNORE
from .probes import segmentation_scores

Maps = Sequence[tuple[np.ndarray, np.ndarray]]
"""Features (C, h, w), float32, and class of each pixel (H, W), uint8."""


def nearest(points: np.ndarray,
            neighbours: int) -> Callable[[np.ndarray], tuple[Tensor, Tensor]]:
    """Prepare an exact search for similar cells, by products of matrices.

    Features are standardised, since they are of several stages, and brought
    to length one.

    Args:
        points (np.ndarray): Features to search, (M, C), float32.
        neighbours (int): Number of cells to find, at most M.

    Returns:
        Callable: Takes features (N, C), float32; gives the similarities and
        places of the nearest, each (N, neighbours), the nearest first.
    """
    mean, spread = points.mean(0), points.std(0) + 1e-6

    def unit(cells: np.ndarray) -> Tensor:
        return F.normalize(torch.from_numpy((cells - mean) / spread), dim=1)

    known = unit(points).T
    count = min(neighbours, len(points))
    return lambda cells: (unit(cells) @ known).topk(count, dim=1)


def retrieve_segments(train: Maps,
                      val: Maps,
                      num_classes: int,
                      neighbours: int = 30,
                      temperature: float = 0.02,
                      memory: int = 5000,
                      seed: int = 0) -> dict[str, float]:
    """Give each pixel the class of the most similar cells of other images.

    The dense nearest-neighbour retrieval of `Hummingbird
    <https://arxiv.org/abs/2306.01667>`_: a cell of a labelled image is kept
    with the shares of the classes in it; a cell of a new image attends to the
    nearest of them, and the classes found are enlarged bilinearly to pixels.
    Differently from there, features are standardised first (:func:`nearest`),
    and the memory is a random part of the cells of images seen once.

    Args:
        train (Maps): The labelled images.
        val (Maps): The images to score.
        num_classes (int): Number of classes K, ids 0 to K - 1.
        neighbours (int): Cells that a cell attends to. Defaults to 30.
        temperature (float): Of the attention. Defaults to 0.02.
        memory (int): Largest number of cells to keep. Defaults to 5000.
        seed (int): Determines which. Defaults to 0.

    Returns:
        dict[str, float]: ``mIoU`` over the classes that the scored pixels
        hold, and ``pixel_accuracy``.

    Raises:
        UserError: If no cell has a label.
    """
    points, shares = _remember(train, num_classes, memory, seed)
    search = nearest(points, neighbours)
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    for features, classes in val:
        similar, where = search(features.reshape(len(features), -1).T)
        weights = (similar / temperature).softmax(1)
        found = torch.einsum('nk,nkc->cn', weights, shares[where])
        maps = found.reshape(1, num_classes, *features.shape[1:])
        maps = F.interpolate(maps, classes.shape, mode='bilinear')[0]
        known = classes != IGNORE
        confusion += np.bincount(
            classes[known].astype(np.int64) * num_classes
            + maps.argmax(0).numpy()[known],
            minlength=num_classes**2).reshape(num_classes, num_classes)
    return segmentation_scores(confusion)


def _remember(maps: Maps, num_classes: int, memory: int,
              seed: int) -> tuple[np.ndarray, Tensor]:
    """Features (M, C) and shares of the classes (M, K) of some cells."""
    points, shares = [], []
    for features, classes in maps:
        one_hot = classes[None] == np.arange(num_classes,
                                             dtype=np.uint8)[:, None, None]
        part = F.adaptive_avg_pool2d(
            torch.from_numpy(one_hot).float(), features.shape[1:])
        found = part.reshape(num_classes, -1).T.numpy()
        labelled = found.sum(1) > 0
        points.append(features.reshape(len(features), -1).T[labelled])
        shares.append(found[labelled]
                      / found[labelled].sum(1, keepdims=True))
    cells = np.concatenate(points) if points else np.empty((0, 0))
    if not len(cells):
        raise UserError('There is no labelled cell to compare with')
    chosen = np.random.default_rng(seed).permutation(len(cells))[:memory]
    return cells[chosen], torch.from_numpy(np.concatenate(shares)[chosen])
