"""Frozen probes: how much of what matters lies open in a backbone.

Features of a frozen backbone and linear classifiers of scikit-learn on them:
classes of regions, classes of locations, labels of whole images. Every
classifier standardises its input and chooses its regularisation on images
held out from the training images, so that no probe favours one network.
"""
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.fileio import join_path
from mmengine.logging import print_log
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from ..datasets.coco_truth import TURNED, CocoTruth, evenly, is_turned
from ..datasets.image_io import at_long_side, read_image
from ..errors import UserError
from ..models.regions import cell_labels

COSTS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse regularisation strengths to choose from."""
REGION_SPLITS = 5
"""Regions are few: one split of their images chooses nearly at random."""
IGNORE = 255
"""The class of locations that are neither learnt nor scored."""
_NAMED = 5  # how many images a message names


class FrozenFeatures:
    """Feature maps of whole images from a frozen backbone.

    The stages are brought to one grid by averaging (or repeating) and
    concatenated, as ``MaskGroundedNeck`` does.

    Args:
        backbone (nn.Module): Gives a tuple of maps (B, C_i, H_i, W_i).
            Set to evaluation mode.
        mean (Sequence[float]): Mean of each channel, in the order of
            ``to_rgb``. Defaults to ImageNet's (123.675, 116.28, 103.53).
        std (Sequence[float]): Standard deviation of each channel.
            Defaults to ImageNet's (58.395, 57.12, 57.375).
        to_rgb (bool): Turn the BGR images into RGB. Defaults to True.
        grid_stride (int): Pixels of the resized image on each side of a grid
            cell. Defaults to 16.
        long_side (int, optional): Resize images to this long side first.
            Defaults to None, their own size.
    """

    def __init__(
        self,
        backbone: nn.Module,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        to_rgb: bool = True,
        grid_stride: int = 16,
        long_side: int | None = None
    ) -> None:
        backbone.eval()
        self.backbone = backbone
        self._device = next(backbone.parameters()).device
        self._mean = torch.tensor(mean, device=self._device).view(-1, 1, 1)
        self._std = torch.tensor(std, device=self._device).view(-1, 1, 1)
        self._to_rgb = to_rgb
        self.grid_stride = grid_stride
        self.long_side = long_side

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features of an image.

        Args:
            image (np.ndarray): BGR, shape (H, W, 3), uint8.

        Returns:
            tuple[np.ndarray, np.ndarray]: The fused map (C, h, w), and the
            mean of the last stage's map (C_last, ), both float32.
        """
        if self.long_side is not None:
            image = at_long_side(image, self.long_side)
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        pixels = pixels.to(self._device).permute(2, 0, 1)
        if self._to_rgb:
            pixels = pixels.flip(0)
        batch = ((pixels.float() - self._mean) / self._std)[None]
        stages = self.backbone(batch)
        height, width = image.shape[:2]
        grid = (-(-height // self.grid_stride), -(-width // self.grid_stride))
        fused = torch.cat(
            [F.adaptive_avg_pool2d(stage, grid) for stage in stages], 1)[0]
        whole = stages[-1].mean(dim=(2, 3))[0]
        return fused.float().cpu().numpy(), whole.float().cpu().numpy()


def pool_masks(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Average a feature map over ground-truth masks.

    Each cell counts by the part of it that the mask covers, so that an object
    smaller than a cell still takes that cell's feature.

    Args:
        features (np.ndarray): Shape (C, h, w), float32.
        masks (np.ndarray): Shape (N, H, W), bool; they cover the whole image
            at any resolution.

    Returns:
        np.ndarray: Shape (N, C), float32.

    Raises:
        ValueError: If a mask is empty.
    """
    if not masks.any(axis=(1, 2)).all():
        raise UserError('A region without a pixel has no feature: leave '
                        'empty masks out')
    weight = F.adaptive_avg_pool2d(
        torch.from_numpy(masks).float()[:, None], features.shape[1:])
    weight = weight.flatten(1)
    weight = weight / weight.sum(dim=1, keepdim=True)
    return (weight @ torch.from_numpy(features).flatten(1).T).numpy()


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

    Its regularisation is the best one, by mean accuracy, on a fifth of the
    images that is held out, on average over several such fifths; then it is
    fitted on all.

    Args:
        features (np.ndarray): Shape (M, C), float32.
        labels (np.ndarray): Class of each sample, shape (M, ), integer.
        images (np.ndarray): Image of each sample, shape (M, ), integer:
            those of one image are never on both sides.
        costs (Sequence[float]): Inverse regularisation strengths.
            Defaults to :data:`COSTS`.
        seed (int): Decides what is held out. Defaults to 0.
        num_splits (int): How often a fifth is held out, each time another.
            Defaults to 1.

    Returns:
        Pipeline: The fitted classifier.

    Raises:
        ValueError: If there are fewer than two classes or five images.
    """
    _check(features, labels, images)
    classifier = make_pipeline(StandardScaler(),
                               LogisticRegression(max_iter=200, tol=1e-3))
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
    """Tell the classes of regions from their pooled features.

    Args:
        train (Tuple): Features (M, C) float32, classes (M, ) integer, and
            the image (M, ) integer of each region.
        val (Tuple): Features (N, C) and classes (N, ) to be scored on.
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
                     seed: int = 0) -> dict[str, float]:
    """Tell the class of every location from its feature (semantic classes).

    It learns from cells of the grid, each with the class of most of its
    pixels, and is scored on pixels: the cells' log-probabilities are enlarged
    bilinearly to the label map and the largest one wins.

    Args:
        train (Iterable): Feature map (C, h, w) float32 and classes (H, W)
            uint8 of each image; :data:`IGNORE` is unlabelled.
        val (Iterable): The images to be scored on, likewise.
        num_classes (int): Number of classes K, ids 0 to K - 1.
        max_locations (int): Cells to learn from; more are thinned at random.
            Defaults to 20000.
        seed (int): Decides which, and see :func:`fit_linear`. Defaults to 0.

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
    classifier = fit_linear(points, kinds, origins, seed=seed)

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
        confusion (np.ndarray): Pixels of class i that were called j, shape
            (K, K), integer.

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
                    min_positive: int = 5) -> dict[str, float]:
    """Tell which classes an image holds from its one feature.

    A logistic regression for each class, on standardised features and with
    one regularisation for all: a class has too few images to choose by.

    Args:
        train (Tuple): Features (M, C) float32 and presence (M, K) bool.
        val (Tuple): Features (N, C) and presence (N, K) to be scored on.
        cost (float): Inverse regularisation strength. Defaults to 0.01.
        min_positive (int): Classes with fewer images, in either set, are
            left out. Defaults to 5.

    Returns:
        dict[str, float]: ``mAP``, mean over the classes of the average
        precision, ``chance``, that of a random order, and ``num_classes``.

    Raises:
        ValueError: If no class has enough images.
    """
    enough = np.ones(train[1].shape[1], dtype=bool)
    for _, presence in (train, val):
        count = presence.sum(0)
        enough &= (count >= min_positive) & (count < len(presence))
    if not enough.any():
        raise UserError(
            f'No class occurs in {min_positive} images of both sets: lower '
            'min_positive or give more images')
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
    """Keep to one thread: the steps of L-BFGS are too short to share.

    Where torch's threads are at work beside them, two take 6 to 25 times as
    long as one (measured on 2 cores).
    """
    return threadpool_limits(1)


def _check(features: np.ndarray, labels: np.ndarray,
           images: np.ndarray) -> None:
    if len(np.unique(labels)) < 2 or len(np.unique(images)) < 5:
        raise UserError(
            'A linear probe needs two classes and five images to learn from, '
            f'but got {len(np.unique(labels))} and {len(np.unique(images))}')
    if not np.isfinite(features).all():
        raise UserError('The features hold NaN or infinite values: the '
                        'network has diverged')


class ProbeImages(NamedTuple):
    """The annotated images of one side of a probe."""

    root: str
    """Folder that the ``file_name`` of an image is relative to."""
    truth: CocoTruth
    """Their instances: classes of regions and of whole images."""
    scenes: CocoTruth
    """What labels the pixels: panoptic, or ``truth`` once more."""


def run_probes(features: FrozenFeatures,
               train: ProbeImages,
               val: ProbeImages,
               min_area: int = 100,
               max_images: int | None = None,
               seed: int = 0) -> dict[str, dict[str, float]]:
    """Run all three probes on annotated images, each image read once.

    An image whose height and width are the other way round in the json
    (``is_turned``) is left out with a warning.

    Args:
        features (FrozenFeatures): The frozen backbone.
        train (ProbeImages): Images to learn the classifiers from.
        val (ProbeImages): Images to score them on, with the same classes.
        min_area (int): Objects of fewer pixels, and crowds, are no regions.
            Defaults to 100.
        max_images (int, optional): Use so many images of each side, evenly
            spread. Defaults to None, all.
        seed (int): Defaults to 0.

    Returns:
        dict[str, dict[str, float]]: The scores of ``regions``, ``segments``
        and ``images``.

    Raises:
        ValueError: If both sides have not the same classes, or all images
            of one are left out.
    """
    for name in ('classes', 'segment_classes'):
        pair = [(getattr(side.truth, name), getattr(side.scenes, name))
                for side in (train, val)]
        if pair[0] != pair[1]:
            raise UserError(
                f'{train.truth.ann_file} and {val.truth.ann_file} (or their '
                f'panoptic files) must have the same classes, but have '
                f'{pair[0]} and {pair[1]}')
    sides = [
        _collect(features, side, min_area, max_images)
        for side in (train, val)
    ]
    return dict(
        regions=classify_regions(sides[0].regions, sides[1].regions[:2], seed),
        segments=segment_linearly(
            sides[0].maps,
            sides[1].maps,
            len(train.scenes.segment_classes),
            seed=seed),
        images=classify_images(sides[0].images, sides[1].images))


class _Collected(NamedTuple):
    regions: tuple[np.ndarray, np.ndarray, np.ndarray]
    maps: list[tuple[np.ndarray, np.ndarray]]
    images: tuple[np.ndarray, np.ndarray]


def _collect(features: FrozenFeatures, side: ProbeImages, min_area: int,
             max_images: int | None) -> _Collected:
    """Compute the features of all images of a side."""
    pooled: list[np.ndarray] = []
    classes: list[np.ndarray] = []
    origins: list[np.ndarray] = []
    maps: list[tuple[np.ndarray, np.ndarray]] = []
    vectors: list[np.ndarray] = []
    presence = []
    labelled = set(evenly(side.scenes.names, max_images))
    names = evenly(side.truth.names, max_images)
    names += sorted(labelled.difference(names))
    turned: list[str] = []
    for number, name in enumerate(names):
        image = read_image(join_path(side.root, name))
        truth = side.truth if name in side.truth else side.scenes
        if is_turned(image.shape[:2], truth.size(name)):
            turned.append(name)
            continue
        dense, whole = features(image)
        if name in labelled:
            maps.append((dense, side.scenes.semantic(name, IGNORE)))
        if name not in side.truth:
            continue
        found = side.truth.instances(name)
        vectors.append(whole)
        presence.append(
            np.isin(np.arange(len(side.truth.classes)), found.classes))
        kept = ~found.crowd & (found.masks.sum((1, 2)) >= min_area)
        if kept.any():
            pooled.append(pool_masks(dense, found.masks[kept]))
            classes.append(found.classes[kept])
            origins.append(np.full(int(kept.sum()), number))
    if turned:
        message = (
            f'{side.truth.ann_file} has height and width the other way round '
            f'than {len(turned)} of {len(names)} images in {side.root}, such '
            f'as {turned[:_NAMED]}: {TURNED}')
        if len(turned) == len(names):
            raise UserError(message)
        print_log(
            f'Left out of the probes: {message}',
            logger='current',
            level=logging.WARNING)
    if not pooled:
        raise UserError(f'{side.truth.ann_file} has no object of at least '
                        f'{min_area} pixels')
    return _Collected((np.concatenate(pooled), np.concatenate(classes),
                       np.concatenate(origins)), maps,
                      (np.stack(vectors), np.stack(presence)))
