"""Frozen probes: how much a linear classifier can read from a backbone.

Linear classifiers of scikit-learn on the features of a frozen backbone:
classes of regions, classes of locations, labels of whole images. Every
classifier standardises its input and chooses its regularisation on images
held out from the training images, so that no probe favours one network.
"""
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ..errors import UserError
from ..models.regions import cell_labels
from .frozen_features import (
    IGNORE,
    FrozenFeatures,
    ProbeImages,
    collect,
    pool_masks,
)

__all__ = [
    'COSTS', 'IGNORE', 'REGION_SPLITS', 'FrozenFeatures', 'ProbeImages',
    'cell_classes', 'classify_images', 'classify_regions', 'fit_linear',
    'pool_masks', 'run_probes', 'segment_linearly', 'segmentation_scores',
    'share_classes'
]

COSTS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse regularisation strengths to choose from."""
REGION_SPLITS = 5
"""There are few regions: one split of images chooses almost at random."""
_NAMED = 5  # number of classes in a message


def cell_classes(classes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Give each cell of a grid the class that fills most of it.

    Args:
        classes (np.ndarray): Class of each pixel, shape (H, W), uint8;
            :data:`IGNORE` is unlabelled.
        grid (tuple[int, int]): The grid's height and width (h, w).

    Returns:
        np.ndarray: Shape (h, w), int64.
    """
    return cell_labels(torch.from_numpy(classes)[None], grid)[0].numpy()


def fit_linear(features: np.ndarray,
               labels: np.ndarray,
               images: np.ndarray,
               costs: Sequence[float] = COSTS,
               seed: int = 0,
               num_splits: int = 1) -> Pipeline:
    """Fit a logistic regression on standardised features.

    The regularisation with the best mean accuracy on a held-out fifth of the
    images, averaged over several such fifths, is chosen; then the classifier
    is fitted on all images.

    Args:
        features (np.ndarray): Shape (M, C), float32.
        labels (np.ndarray): Class of each sample, shape (M, ), integer.
        images (np.ndarray): Image of each sample, shape (M, ), integer.
            Samples of one image are never on both sides.
        costs (Sequence[float]): Inverse regularisation strengths.
            Defaults to :data:`COSTS`.
        seed (int): Determines what is held out. Defaults to 0.
        num_splits (int): How many times a fifth is held out, each time another
            one. Defaults to 1.

    Returns:
        Pipeline: The fitted classifier.

    Raises:
        ValueError: If there are fewer than two classes, or fewer than five
            images to choose from several costs on.
    """
    _check(features, labels, images, least=5 if len(costs) > 1 else 1)
    classifier = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=costs[0], max_iter=200, tol=1e-3))
    if len(costs) == 1:
        with _one_thread():
            return classifier.fit(features, labels)
    search = GridSearchCV(
        classifier, {'logisticregression__C': list(costs)},
        cv=GroupShuffleSplit(
            num_splits, test_size=0.2, random_state=seed),
        error_score='raise')
    with _one_thread():
        search.fit(features, labels, groups=images)
    return search.best_estimator_


def classify_regions(train: tuple[np.ndarray, np.ndarray, np.ndarray],
                     val: tuple[np.ndarray, np.ndarray],
                     seed: int = 0) -> dict[str, float]:
    """Predict the classes of regions from their pooled features.

    Args:
        train (Tuple): Features (M, C) float32, classes (M, ) integer, and
            the image (M, ) integer of each region.
        val (Tuple): Features (N, C) and classes (N, ) to score.
        seed (int): See :func:`fit_linear`. Defaults to 0.

    Returns:
        dict[str, float]: ``accuracy`` over regions, ``balanced_accuracy``
        (mean recall of the classes), and ``majority``, the accuracy of
        always answering the most frequent training class.
    """
    classifier = fit_linear(*train, seed=seed, num_splits=REGION_SPLITS)
    predicted = classifier.predict(val[0])
    majority = np.bincount(train[1]).argmax()
    return dict(
        accuracy=float(np.mean(predicted == val[1])),
        balanced_accuracy=float(balanced_accuracy_score(val[1], predicted)),
        majority=float(np.mean(val[1] == majority)))


def segment_linearly(train: Iterable[tuple[np.ndarray, np.ndarray]],
                     val: Iterable[tuple[np.ndarray, np.ndarray]],
                     num_classes: int,
                     max_locations: int = 20000,
                     seed: int = 0,
                     costs: Sequence[float] = COSTS) -> dict[str, float]:
    """Predict the class of every location from its feature (semantic classes).

    The classifier is trained on cells of the grid, each with the class of most
    of its pixels, and scored on pixels: the log-probabilities of the cells are
    enlarged bilinearly to the label map, and the largest one wins.

    Args:
        train (Iterable): Feature map (C, h, w) float32 and classes (H, W)
            uint8 of each image; :data:`IGNORE` is unlabelled.
        val (Iterable): The same for the images to score.
        num_classes (int): Number of classes K, ids 0 to K - 1.
        max_locations (int): Largest number of cells to train on, chosen at
            random. Defaults to 20000.
        seed (int): Determines which, and see :func:`fit_linear`. Defaults to
            0.
        costs (Sequence[float]): See :func:`fit_linear`. Defaults to
            :data:`COSTS`.

    Returns:
        dict[str, float]: ``mIoU``, mean over the classes that the scored
        pixels hold, and ``pixel_accuracy``.
    """
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    images: list[np.ndarray] = []
    for number, (feature, classes) in enumerate(train):
        cells = cell_classes(classes, feature.shape[1:]).reshape(-1)
        known = cells != IGNORE
        features.append(feature.reshape(len(feature), -1).T[known])
        labels.append(cells[known])
        images.append(np.full(int(known.sum()), number))
    points, kinds, origins = (
        np.concatenate(part) for part in (features, labels, images))
    if len(points) > max_locations:
        random = np.random.default_rng(seed)
        chosen = random.permutation(len(points))[:max_locations]
        points, kinds, origins = points[chosen], kinds[chosen], origins[chosen]
    classifier = fit_linear(points, kinds, origins, costs, seed)

    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    for feature, classes in val:
        with _one_thread():
            logs = classifier.predict_log_proba(
                feature.reshape(len(feature), -1).T)
        maps = torch.from_numpy(logs.T.reshape(-1, *feature.shape[1:]))
        maps = F.interpolate(
            maps[None].float(), classes.shape, mode='bilinear')[0]
        predicted = classifier.classes_[maps.argmax(dim=0).numpy()]
        known = classes != IGNORE
        confusion += np.bincount(
            classes[known].astype(np.int64) * num_classes + predicted[known],
            minlength=num_classes**2).reshape(num_classes, num_classes)
    return segmentation_scores(confusion)


def segmentation_scores(confusion: np.ndarray) -> dict[str, float]:
    """Score a confusion matrix.

    Args:
        confusion (np.ndarray): Pixels of class i that were predicted as j,
            shape (K, K), integer.

    Returns:
        dict[str, float]: ``mIoU`` over the classes that occur, and
        ``pixel_accuracy``.
    """
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    occurs = confusion.sum(1) > 0
    if not occurs.any():
        raise UserError('There is no labelled pixel to score on')
    return dict(
        mIoU=float(np.mean(hits[occurs] / union[occurs])),
        pixel_accuracy=float(hits.sum() / confusion.sum()))


def classify_images(train: tuple[np.ndarray, np.ndarray],
                    val: tuple[np.ndarray, np.ndarray],
                    cost: float = 1e-2,
                    min_positive: int = 5,
                    names: Sequence[str] = ()) -> dict[str, float]:
    """Predict which classes an image contains from its one feature.

    It uses a logistic regression for each class, on standardised features and
    with one regularisation for all, because a class has too few images to
    choose one.

    Args:
        train (Tuple): Features (M, C) float32 and presence (M, K) bool.
        val (Tuple): Features (N, C) and presence (N, K) to score.
        cost (float): Inverse regularisation strength. Defaults to 0.01.
        min_positive (int): Classes with fewer images, in either set, are
            left out; so are those that are in all images of one.
            Defaults to 5.
        names (Sequence[str]): Names of the classes, for the error.
            Defaults to (), their numbers.

    Returns:
        dict[str, float]: ``mAP``, mean over the classes of the average
        precision, ``chance``, that of a random order, and ``num_classes``.

    Raises:
        ValueError: If no class distinguishes images.
    """
    _check_finite(train[0], val[0])
    sets = train[1], val[1]
    counts = np.array([presence.sum(0) for presence in sets])
    sizes = np.array([[len(presence)] for presence in sets])
    enough = ((counts >= min_positive) & (counts < sizes)).all(0)
    if not enough.any():
        found = ', '.join(
            f'{name} in {count[0]} and {count[1]}' for name, count in zip(
                names or range(counts.shape[1]), counts.T[:_NAMED]))
        raise UserError(
            f'No class tells the images apart. Each must be in min_positive='
            f'{min_positive} images of both sets at least, and not in all of '
            f'one, but of {sizes[0, 0]} and {sizes[1, 0]} images found '
            f'{found}: give more images, or others')
    classifier = make_pipeline(
        StandardScaler(),
        OneVsRestClassifier(
            LogisticRegression(C=cost, max_iter=200, tol=1e-3)))
    with _one_thread():
        classifier.fit(train[0], train[1][:, enough].astype(int))
        scores = classifier.predict_proba(val[0])
    truth = val[1][:, enough]
    if truth.shape[1] == 1:
        scores = scores[:, -1:]
    precision = [
        average_precision_score(truth[:, k], scores[:, k])
        for k in range(truth.shape[1])
    ]
    return dict(
        mAP=float(np.mean(precision)),
        chance=float(truth.mean()),
        num_classes=float(truth.shape[1]))


def _one_thread() -> threadpool_limits:
    """Use one thread: the steps of L-BFGS are too short to share.

    If torch's threads run at the same time, two threads take 6 to 25 times as
    long as one (measured on 2 cores).
    """
    return threadpool_limits(1)


def _check(features: np.ndarray, labels: np.ndarray, images: np.ndarray,
           least: int) -> None:
    kinds, origins = len(np.unique(labels)), len(np.unique(images))
    if kinds < 2 or origins < least:
        raise UserError(
            f'A linear probe needs 2 classes and {least} images to learn '
            f'from, but got {kinds} and {origins}')
    _check_finite(features)


def _check_finite(*features: np.ndarray) -> None:
    if not all(np.isfinite(part).all() for part in features):
        raise UserError('The features hold NaN or infinite values: the '
                        'network has diverged')


def share_classes(train: ProbeImages,
                  val: ProbeImages) -> tuple[ProbeImages, ProbeImages]:
    """Give both sides the same classes.

    Each json alone may have chosen categories or supercategories.

    Args:
        train (ProbeImages): Images to train the classifiers on.
        val (ProbeImages): Images to score them on.

    Returns:
        tuple[ProbeImages, ProbeImages]: Both sides; they share the
        annotations.

    Raises:
        UserError: If their classes still differ.
    """
    train, val = (
        ProbeImages(side.root, side.truth.beside(other.truth),
                    side.scenes.beside(other.scenes))
        for side, other in ((train, val), (val, train)))
    for name in ('classes', 'segment_classes'):
        pair = [(getattr(side.truth, name), getattr(side.scenes, name))
                for side in (train, val)]
        if pair[0] != pair[1]:
            raise UserError(
                f'{train.truth.ann_file} and {val.truth.ann_file} (or their '
                f'panoptic files) must have the same classes, but have '
                f'{pair[0]} and {pair[1]}')
    return train, val


def run_probes(features: FrozenFeatures,
               train: ProbeImages,
               val: ProbeImages,
               min_area: int = 100,
               max_images: int | None = None,
               seed: int = 0) -> dict[str, dict[str, float]]:
    """Run all three probes on annotated images, each image read once.

    Images that are broken or lie on their side are left out, and so is a probe
    that is not possible with the images, each with a warning.

    Args:
        features (FrozenFeatures): The frozen backbone.
        train (ProbeImages): Images to train the classifiers on.
        val (ProbeImages): Images to score them on, with the same classes.
        min_area (int): Objects of fewer pixels, and crowds, are not regions.
            Defaults to 100.
        max_images (int, optional): Use this many images of each side, evenly
            spread. Defaults to None, all.
        seed (int): Defaults to 0.

    Returns:
        dict[str, dict[str, float]]: The scores of ``regions``, ``segments``
        and ``images``, except those left out.

    Raises:
        ValueError: If both sides do not have the same classes, or if all
            images of one side or all probes are left out.
    """
    train, val = share_classes(train, val)
    learnt, scored = (
        collect(features, side, min_area, max_images)
        for side in (train, val))
    probes: dict[str, Callable[[], dict[str, float]]] = dict(
        regions=lambda: classify_regions(learnt.regions, scored.regions[:2],
                                         seed),
        segments=lambda: segment_linearly(
            learnt.maps,
            scored.maps,
            len(train.scenes.segment_classes),
            seed=seed),
        images=lambda: classify_images(
            learnt.images, scored.images, names=train.truth.classes))
    scores: dict[str, dict[str, float]] = {}
    problems = []
    for name, probe in probes.items():
        try:
            scores[name] = probe()
        except UserError as error:
            problems.append(f'No scores of {name}: {error}')
    if not scores:
        raise UserError('. '.join(problems))
    for problem in problems:
        print_log(problem, logger='current', level=logging.WARNING)
    return scores
