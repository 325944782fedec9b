r"""Nearest-neighbour classification on frozen features.

Run: python tools/benchmarks/knn_imagenet.py BACKBONE.pth \
         --root data/imagenet --max-per-class 100

``train/`` and ``val/`` hold a folder of images for each class. Features as in
voc07_svm.py; scikit-learn's neighbours by cosine, weighted by exp(cos / 0.07).
"""
import argparse
import json
import os
import os.path as osp

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from voc07_svm import extract, load_frozen

from cyborgs_plugin.datasets.image_io import IMG_EXTENSIONS
from cyborgs_plugin.errors import UserError, reported


def list_images(folder: str,
                limit: int | None) -> tuple[list[str], list[str]]:
    """List the images of all classes.

    Args:
        folder (str): Holds a folder for each class.
        limit (int, optional): Images of each class; None takes all.

    Returns:
        tuple[list[str], list[str]]: Paths and classes, sorted.

    Raises:
        UserError: If there are none.
    """
    # torchvision's ImageFolder knows no limit a class, and fewer endings
    paths, classes = [], []
    kinds = sorted(os.listdir(folder)) if osp.isdir(folder) else []
    for kind in kinds:
        inside = osp.join(folder, kind)
        names = sorted(os.listdir(inside)) if osp.isdir(inside) else []
        names = [n for n in names if n.lower().endswith(IMG_EXTENSIONS)]
        paths += [osp.join(inside, name) for name in names[:limit]]
        classes += [kind] * len(names[:limit])
    if not paths:
        raise UserError(f'{folder} holds no folders of images: set --root')
    return paths, classes


def weights(distances: np.ndarray) -> np.ndarray:
    """Weights of neighbours by their cosine distances, same shape."""
    return np.exp((1 - distances) / 0.07)


@reported()
def main() -> None:
    """Extract, classify, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'backbone',
        help='file of publish_backbone.py, or resnet50 for random weights')
    parser.add_argument(
        '--root', default='data/imagenet',
        help='folder of train/ and val/, each with one folder per class '
        '(default: %(default)s)')
    parser.add_argument(
        '--k', type=int, default=20,
        help='number of neighbours (default: %(default)s)')
    parser.add_argument(
        '--max-per-class', type=int,
        help='images of each class (default: all)')
    parser.add_argument('--out', help='JSON file to write')
    parser.add_argument(
        '--seed', type=int, default=0,
        help='of random weights (default: %(default)s)')
    args = parser.parse_args()
    network = load_frozen(args.backbone, (3, ), args.seed)
    sides = []
    for split in ('train', 'val'):
        paths, classes = list_images(
            osp.join(args.root, split), args.max_per_class)
        sides.append((extract(network, paths), classes))
    if args.k > len(sides[0][1]):
        raise UserError(f'--k {args.k} is more than the {len(sides[0][1])} '
                        'training images')
    neighbours = KNeighborsClassifier(
        args.k, metric='cosine', weights=weights).fit(*sides[0])
    accuracy = float(neighbours.score(*sides[1]))
    print(f'{args.k}-NN accuracy {accuracy:.3f} on {len(sides[1][1])} images')
    if args.out:
        os.makedirs(osp.dirname(args.out) or '.', exist_ok=True)
        with open(args.out, 'w', encoding='utf-8') as file:
            json.dump(
                dict(
                    task='imagenet-knn',
                    start=args.backbone,
                    seed=args.seed,
                    scores={f'top1 ({args.k}-NN)': accuracy}), file, indent=1)


if __name__ == '__main__':
    main()
