r"""VOC07 classification by linear SVMs on frozen features.

Run: python tools/benchmarks/voc07_svm.py BACKBONE.pth \
         --voc-root data/VOCdevkit --out voc07_svm.json

Resize 256, centre crop 224, the mean of stage 4 with length 1; for each class
one linear SVM (squared hinge, positives count twice), whose cost is chosen by
3-fold cross-validation; average precision on VOC07 test. Images in which a
class is only difficult (0 in VOC's lists) are left out for that class.
"""
import argparse
import glob
import json
import os
import os.path as osp
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import init_default_scope
from mmengine.utils import track_iter_progress
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from cyborgs_plugin.datasets import read_image
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.evaluation.frozen_features import FrozenFeatures
from cyborgs_plugin.transfer.backbone_file import load_frozen

COSTS = (0.01, 0.1, 1., 10.)


def extract(network: torch.nn.Module, paths: Sequence[str]) -> np.ndarray:
    """Compute the features of image files, with progress.

    Args:
        network (nn.Module): Gives a tuple with the map of stage 4.
        paths (Sequence[str]): The N image files.

    Returns:
        np.ndarray: Shape (N, C), float32; rows of length 1.
    """
    init_default_scope('mmpretrain')
    crop = Compose([
        dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
        dict(type='CenterCrop', crop_size=224)
    ])
    features = FrozenFeatures(network)
    vectors = []
    for path in track_iter_progress(list(paths), file=sys.stderr):
        image = read_image(path)
        cropped = crop(dict(img=image, img_shape=image.shape[:2]))['img']
        vectors.append(features(cropped)[1])
    stacked = np.stack(vectors)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def read_labels(voc_root: str, split: str) -> tuple[list[str], dict[str, Any]]:
    """Read VOC07's lists of a split.

    Args:
        voc_root (str): Folder that holds ``VOC2007``.
        split (str): ``trainval`` or ``test``.

    Returns:
        tuple[list[str], dict[str, np.ndarray]]: Paths of the N images, and
        for each class 1, -1 or 0 (difficult), shape (N, ).

    Raises:
        UserError: If there are no lists, or they differ in their images.
    """
    root = osp.join(voc_root, 'VOC2007')
    lists = sorted(
        glob.glob(osp.join(root, 'ImageSets', 'Main', f'*_{split}.txt')))
    if not lists:
        raise UserError(f'{root}/ImageSets/Main has no *_{split}.txt: set '
                        '--voc-root to the folder that holds VOC2007')
    names: list[str] = []
    labels = {}
    for path in lists:
        with open(path, encoding='utf-8') as file:
            rows = [line.split() for line in file if line.strip()]
        found = [row[0] for row in rows]
        names = names or found
        if found != names:
            raise UserError(f'{path} lists other images than {lists[0]}')
        kind = osp.basename(path)[:-len(f'_{split}.txt')]
        labels[kind] = np.array([int(row[1]) for row in rows])
    paths = [osp.join(root, 'JPEGImages', f'{name}.jpg') for name in names]
    lacking = [path for path in paths if not osp.isfile(path)]
    if lacking:
        raise UserError(f'{len(lacking)} of {len(paths)} images of {split} '
                        f'are missing, such as {lacking[0]}')
    return paths, labels


def fit_class(train: tuple[np.ndarray, np.ndarray],
              test: tuple[np.ndarray, np.ndarray],
              costs: Sequence[float] = COSTS,
              seed: int = 0) -> tuple[float, float]:
    """Fit the SVM of a class.

    Args:
        train (Tuple): Features (M, C) and labels (M, ), 1, -1 or 0.
        test (Tuple): Features (N, C) and labels (N, ), likewise.
        costs (Sequence[float]): Costs to choose from.
            Defaults to (0.01, 0.1, 1, 10).
        seed (int): Order of the solver. Defaults to 0.

    Returns:
        tuple[float, float]: Average precision and the chosen cost.

    Raises:
        ValueError: If there are fewer than 3 images with or without it.
    """
    (x, y), (others, truth) = (
        (part[0][part[1] != 0], part[1][part[1] != 0])
        for part in (train, test))
    if min((y == 1).sum(), (y == -1).sum()) < 3:
        raise ValueError(f'{(y == 1).sum()} images with the class and '
                         f'{(y == -1).sum()} without, but 3-fold '
                         'cross-validation needs 3 of each')

    machine = LinearSVC(
        loss='squared_hinge',
        class_weight={
            1: 2,
            -1: 1
        },
        max_iter=2000,
        random_state=seed)
    search = GridSearchCV(
        machine, dict(C=costs), scoring='average_precision', cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)
        search.fit(x, y)
    decision = search.decision_function(others)
    return (float(average_precision_score(truth == 1, decision)),
            search.best_params_['C'])


@reported()
def main() -> None:
    """Extract, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'backbone',
        help='file of publish_backbone.py, or resnet50 for random weights')
    parser.add_argument(
        '--voc-root', default='data/VOCdevkit',
        help='folder that holds VOC2007 (default: %(default)s)')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument(
        '--seed', type=int, default=0,
        help='of random weights and of the folds (default: %(default)s)')
    args = parser.parse_args()
    network = load_frozen(args.backbone, (3, ), args.seed)
    sides = {}
    for split in ('trainval', 'test'):
        paths, labels = read_labels(args.voc_root, split)
        sides[split] = extract(network, paths), labels
    precision, cost = {}, {}
    kinds = sorted(sides['trainval'][1])
    for number, kind in enumerate(kinds, 1):
        try:
            train, test = ((vectors, labels[kind])
                           for vectors, labels in sides.values())
            precision[kind], cost[kind] = fit_class(
                train, test, seed=args.seed)
        except (ValueError, KeyError) as error:
            raise UserError(f'Class {kind!r}: {error}') from error
        print(f'[{number}/{len(kinds)}] {kind:12} AP {precision[kind]:.3f} '
              f'(cost {cost[kind]:g})', flush=True)
    mean = float(np.mean(list(precision.values())))
    print(f'mAP {mean:.3f} over {len(kinds)} classes')
    if args.out:
        os.makedirs(osp.dirname(args.out) or '.', exist_ok=True)
        with open(args.out, 'w', encoding='utf-8') as file:
            json.dump(
                dict(
                    task='voc07-svm',
                    start=args.backbone,
                    seed=args.seed,
                    scores=dict(mAP=mean),
                    per_class=precision,
                    costs=cost), file, indent=1)


if __name__ == '__main__':
    main()
