r"""Compare the rounds of a mask bank with COCO annotations.

Run: python tools/evaluate_masks.py work_dirs/x/masks \
         --ann data/coco/annotations/instances_train2017.json
     python tools/evaluate_masks.py --floor 5 8 16 32 --data-root data/coco \
         --ann data/coco/annotations/instances_val2017.json \
         --panoptic data/coco/annotations/panoptic_val2017.json
"""
import argparse
import json
import os.path as osp
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
from mmengine.config import DictAction
from mmengine.utils import track_iter_progress

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets import MaskBank, read_image
from cyborgs_plugin.datasets.mask_bank import list_rounds, round_path
from cyborgs_plugin.errors import MissingFileError, UserError, reported
from cyborgs_plugin.evaluation import MaskQuality, color_kmeans
from cyborgs_plugin.ops.superpixels import check_superpixels
from cyborgs_plugin.segmentation import SuperpixelMasks

COLUMNS = ('regions', 'mBO', 'mBO_small', 'mBO_medium', 'mBO_large', 'ARI',
           'over_segmentation', 'under_segmentation', 'boundary_F', 'FG_ARI',
           'mBO_i', 'mBO_c')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'bank',
        nargs='?',
        help='a mask round, or a folder of rounds')
    parser.add_argument(
        '--ann', required=True, help='COCO instance annotations (json)')
    parser.add_argument(
        '--panoptic',
        help='COCO panoptic annotations (json), next to the folder of their '
        'PNG files')
    parser.add_argument(
        '--img-prefix',
        help='folder of the images below the data root (default: from the '
        'name of the json, such as val2017/ for instances_val2017.json)')
    parser.add_argument(
        '--floor',
        type=at_least(1),
        nargs='+',
        metavar='K',
        help='score k-means on colour and position, of pixels and of '
        'superpixels, instead of a bank')
    parser.add_argument(
        '--data-root',
        default='data/coco',
        help='of the images; used only with --floor (default: %(default)s)')
    parser.add_argument(
        '--seeds',
        type=at_least(1),
        default=1,
        help='number of --floor runs to average (default: 1)')
    parser.add_argument(
        '--superpixels',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='superpixels of --floor: the source.superpixels settings of the '
        'masks to compare with, such as scale=250 reduction=4')
    parser.add_argument(
        '--max-images',
        type=at_least(1),
        help='score at most this many images (default: all)')
    parser.add_argument(
        '--object-centric',
        action='store_true',
        help='also score FG-ARI, mBO_i and mBO_c on the central squares')
    parser.add_argument('--out', help='write the scores to this JSON file')
    args = parser.parse_args()
    if bool(args.bank) == bool(args.floor):
        parser.error('give either a bank or --floor')
    try:
        check_superpixels(**args.superpixels)
    except ValueError as error:
        parser.error(f'--superpixels: {error}')
    if args.img_prefix is None:
        match = re.fullmatch(r'.*_(\w+)\.json', osp.basename(args.ann))
        args.img_prefix = f'{match[1]}/' if match else ''
    return args


@reported()
def main() -> None:
    """Score and print a table."""
    args = parse_args()
    metric = MaskQuality(
        args.ann,
        key_prefix=args.img_prefix,
        panoptic_file=args.panoptic,
        max_images=args.max_images,
        object_centric=args.object_centric)
    scores = floor(metric, args) if args.floor else rounds(metric, args.bank)
    first = next(iter(scores.values()))
    if not first['objects']:
        raise UserError(
            f'{args.ann} has no object of at least {metric.min_area} pixels '
            f'in the {first["images"]:.0f} images that were scored')
    print(f'\n{first["objects"]:.0f} objects of {first["images"]:.0f} images')
    columns = [name for name in COLUMNS if name in first]
    print('| masks | ' + ' | '.join(columns) + ' |')
    print('|---' * (1 + len(columns)) + '|')
    for name, values in scores.items():
        print(f'| {name} | '
              + ' | '.join(f'{values[c]:.3f}' for c in columns) + ' |')
    if args.out:
        with open(args.out, 'w', encoding='utf-8') as file:
            json.dump(scores, file, indent=1)


def rounds(metric: MaskQuality, path: str) -> dict[str, dict[str, float]]:
    """Score a round, or all rounds of a root."""
    if osp.isfile(osp.join(path, 'manifest.json')):
        banks = [MaskBank.open(path)]
    else:
        numbers = list_rounds(path)
        banks = [MaskBank(round_path(path, number)) for number in numbers
                 ] or [MaskBank.open(path)]  # which says what is missing
    return {
        f'round {bank.round}': short(metric.evaluate_bank(bank))
        for bank in banks
    }


def short(scores: dict[str, float]) -> dict[str, float]:
    """Leave the metric's prefix out of the names."""
    return {name.split('/')[-1]: value for name, value in scores.items()}


def floor(metric: MaskQuality,
          args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Score clusters of colour and position, averaged over seeds."""
    keys = metric.keys()

    def superpixels(image: np.ndarray, k: int, seed: int,
                    linkage: str | None = None) -> np.ndarray:
        source = SuperpixelMasks(
            dict(dict(type='Felzenszwalb'), **args.superpixels), k,
            linkage=linkage)
        return source.label_maps([image], [''], (seed, ))[0]

    floors: dict[str, Callable[..., np.ndarray]] = {
        'colour k-means': color_kmeans,
        'superpixels, colour and place': superpixels,
        'superpixels merged, colour and place': partial(
            superpixels, linkage='average')
    }

    def maps(cut: Callable[..., np.ndarray], k: int,
             seed: int) -> Iterator[tuple[str, np.ndarray]]:
        for key in track_iter_progress(keys, file=sys.stderr):
            path = osp.join(args.data_root, key)
            if not osp.exists(path):
                raise MissingFileError(
                    f'{path}, an image of {args.ann}, does not exist: set '
                    f'--data-root (now {args.data_root}) and --img-prefix '
                    f'(now {args.img_prefix!r})')
            image = read_image(path)
            yield key, cut(image, k, seed)

    scores = {}
    for k, (what, cut) in product(args.floor, floors.items()):
        runs = [
            short(metric.evaluate_maps(maps(cut, k, seed), len(keys)))
            for seed in range(args.seeds)
        ]
        scores[f'{what}, K={k}'] = {
            name: float(np.mean([run[name] for run in runs]))
            for name in runs[0]
        }
        if args.seeds > 1:
            spread = {
                name: float(np.std([run[name] for run in runs]))
                for name in ('mBO', 'ARI')
            }
            print(f'\n{what}, K={k}: standard deviation over {args.seeds} '
                  'seeds: '
                  + ', '.join(f'{n} {v:.4f}' for n, v in spread.items()))
    return scores


if __name__ == '__main__':
    main()
