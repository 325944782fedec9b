"""Whether one backbone is better than another: probes on the same splits.

On the same training and test images, two backbones differ by less than either
one varies from split to split. So the differences are compared, split by
split.
"""
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import print_log

from ..errors import UserError
from .frozen_features import IGNORE, ProbeFeatures
from .probes import (
    cell_classes,
    classify_images,
    fit_linear,
    segment_linearly,
)
from .retrieval import nearest, retrieve_segments

_COSTS = (1e-3, 1e-2)
"""Those of ``probes.COSTS`` that get chosen: takes half the time."""
_LOCATIONS = 8000
_FEW_LOCATIONS = 3000
_TEMPERATURE = 0.1
_CHUNK = 2000  # cells that are compared at a time


def score_split(train: ProbeFeatures,
                val: ProbeFeatures,
                num_classes: int,
                split: int,
                share: float = 0.8) -> dict[str, float]:
    """Run quick probes that are trained on some of the images.

    Args:
        train (ProbeFeatures): Features of the images to train on.
        val (ProbeFeatures): Features of the images to score.
        num_classes (int): Number of classes of the pixels.
        split (int): Determines the images to train on, the same for each
            backbone.
        share (float): Share of the images to train on. Defaults to 0.8.

    Returns:
        dict[str, float]: ``regions``, accuracy over regions; ``segments``,
        mIoU; ``cells``, accuracy of the nearest cells (no classifier);
        ``images``, mAP. A probe that is not possible with the images is left
        out.
    """
    learnt = _part(train, np.random.default_rng(split), share)
    scores: dict[str, float] = {}
    probes = dict(
        regions=lambda: _regions(learnt, val, split),
        segments=lambda: segment_linearly(
            learnt.maps, val.maps, num_classes, _LOCATIONS, split)['mIoU'],
        cells=lambda: retrieve_cells(learnt.maps, val.maps),
        images=lambda: classify_images(learnt.images, val.images)['mAP'])
    for name, probe in probes.items():
        try:
            scores[name] = probe()
        except UserError:  # too few images, for each backbone alike
            continue
    return scores


def score_labels(train: ProbeFeatures, val: ProbeFeatures, num_classes: int,
                 seed: int) -> dict[str, float]:
    """Score a frozen backbone with few labels.

    With fewer than five images, a cost is not chosen but fixed.

    Args:
        train (ProbeFeatures): Features of the labelled images.
        val (ProbeFeatures): Features of the images to score.
        num_classes (int): Number of classes of the pixels.
        seed (int): Determines what the probes draw.

    Returns:
        dict[str, float]: ``regions``, accuracy over regions; ``pixels``, mIoU
        of linear segmentation; ``retrieval``, mIoU of
        :func:`~.retrieval.retrieve_segments`. A probe that is not possible
        with the images is left out.
    """

    def costs(images: Sequence) -> Sequence[float]:
        return _COSTS if len(images) >= 5 else _COSTS[-1:]

    probes = dict(
        regions=lambda: float(
            np.mean(
                fit_linear(
                    *train.regions, costs(np.unique(train.regions[2])), seed).
                predict(val.regions[0]) == val.regions[1])),
        pixels=lambda: segment_linearly(
            train.maps, val.maps, num_classes, _FEW_LOCATIONS, seed,
            costs(train.maps))['mIoU'],
        retrieval=lambda: retrieve_segments(
            train.maps, val.maps, num_classes, seed=seed)['mIoU'])
    scores: dict[str, float] = {}
    for name, probe in probes.items():
        try:
            scores[name] = probe()
        except UserError as error:  # too few images, for each start alike
            print_log(f'No {name}: {error}', logger='current')
    return scores


def retrieve_cells(train: Sequence[tuple[np.ndarray, np.ndarray]],
                   val: Sequence[tuple[np.ndarray, np.ndarray]],
                   neighbours: int = 20) -> float:
    """Find the class of a cell from the most similar cells of other images.

    Args:
        train (Sequence): Feature map (C, h, w) float32 and classes (H, W)
            uint8 of each image to search.
        val (Sequence): The same for each image to score.
        neighbours (int): Number of cells that vote, by similarity. Defaults to
            20.

    Returns:
        float: Share of labelled cells whose class is found.

    Raises:
        ValueError: If a side has no labelled cell.
    """
    (points, kinds), (queries, truth) = _cells(train), _cells(val)
    if not len(points) or not len(queries):
        raise UserError('There is no labelled cell to compare')
    search = nearest(points, neighbours)
    labels = torch.from_numpy(kinds)
    hits = 0
    for first in range(0, len(queries), _CHUNK):
        similar, where = search(queries[first:first + _CHUNK])
        votes = torch.zeros(len(similar), IGNORE + 1).scatter_add_(
            1, labels[where], (similar / _TEMPERATURE).exp())
        hits += int((votes.argmax(1).numpy() == truth[first:first +
                                                      _CHUNK]).sum())
    return hits / len(queries)


def paired_difference(start: Sequence[dict[str, float]],
                      end: Sequence[dict[str, float]]
                      ) -> dict[str, tuple[float, float]]:
    """Mean and standard error of the differences, score by score.

    Args:
        start (Sequence[dict[str, float]]): Scores of one backbone on each
            split.
        end (Sequence[dict[str, float]]): Scores of another one on the same
            splits.

    Returns:
        dict[str, tuple[float, float]]: Mean difference and its standard
        error (NaN for one split) of each score that both have.
    """
    found = {}
    for name in start[0].keys() & end[0].keys():
        steps = np.array([
            after[name] - before[name]
            for before, after in zip(start, end, strict=True)
        ])
        error = (
            steps.std(ddof=1) / np.sqrt(len(steps))
            if len(steps) > 1 else np.nan)
        found[name] = float(steps.mean()), float(error)
    return found


def hold_out(features: ProbeFeatures, split: int, share: float = 0.7
             ) -> tuple[ProbeFeatures, ProbeFeatures]:
    """Divide annotated images into those to train on and those to score on.

    Use it to choose between methods without the images that results are
    reported on.

    Args:
        features (ProbeFeatures): Features of all images.
        split (int): Determines the division, the same for each backbone.
        share (float): Share of the images to train on. Defaults to 0.7.

    Returns:
        tuple[ProbeFeatures, ProbeFeatures]: Both sides. All regions of an
        image are on one side.
    """
    learnt = _part(features, np.random.default_rng(split), share)
    scored = _part(features, np.random.default_rng(split), share, other=True)
    return learnt, scored


def _part(features: ProbeFeatures,
          random: np.random.Generator,
          share: float,
          other: bool = False) -> ProbeFeatures:
    """The regions, maps and vectors of some images, or of the others."""
    points, kinds, origins = features.regions

    def drawn(numbers: np.ndarray) -> np.ndarray:
        count = max(1, round(share * len(numbers)))
        order = random.permutation(numbers)
        return np.sort(order[count:] if other else order[:count])

    kept = np.isin(origins, drawn(np.unique(origins)))
    places = drawn(np.arange(len(features.maps)))
    rows = drawn(np.arange(len(features.images[0])))
    return ProbeFeatures(
        (points[kept], kinds[kept], origins[kept]),
        [features.maps[place] for place in places],
        (features.images[0][rows], features.images[1][rows]),
        (features.numbers[0][places], features.numbers[1][rows]))


def _regions(train: ProbeFeatures, val: ProbeFeatures, split: int) -> float:
    classifier = fit_linear(*train.regions, costs=_COSTS, seed=split)
    return float(
        np.mean(classifier.predict(val.regions[0]) == val.regions[1]))


def _cells(maps: Sequence[tuple[np.ndarray, np.ndarray]]
           ) -> tuple[np.ndarray, np.ndarray]:
    """Features (M, C) and classes (M, ) of the labelled cells."""
    points, kinds = [], []
    for features, classes in maps:
        cells = cell_classes(classes, features.shape[1:]).reshape(-1)
        known = cells != IGNORE
        points.append(features.reshape(len(features), -1).T[known])
        kinds.append(cells[known])
    return np.concatenate(points), np.concatenate(kinds)
