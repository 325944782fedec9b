r"""Linear probes of a frozen backbone on any data in COCO's format.

Run: python tools/benchmarks/frozen_probes.py BACKBONE.pth \
         --root data/coco_mini --out probes.json

Classes of regions (the features pooled over ground-truth masks), of locations
(linear semantic segmentation; with panoptic labels if there are any) and of
whole images, by the logistic regressions of cyborgs_plugin.evaluation.probes.
"""
import argparse
import json
import os
import os.path as osp

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.errors import reported
from cyborgs_plugin.evaluation import CocoTruth
from cyborgs_plugin.evaluation.probes import (
    FrozenFeatures,
    ProbeImages,
    run_probes,
)
from cyborgs_plugin.transfer.backbone_file import load_frozen


@reported()
def main() -> None:
    """Extract, fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'backbone',
        help='file of publish_backbone.py, or resnet50 for random weights')
    parser.add_argument(
        '--root', default='data/coco', help='folder of images and jsons')
    for split in ('train', 'val'):
        parser.add_argument(
            f'--{split}-json',
            default=f'annotations/instances_{split}2017.json',
            help='instance annotations (default: %(default)s)')
        parser.add_argument(
            f'--{split}-images',
            default=f'{split}2017',
            help='folder of the images (default: %(default)s)')
        parser.add_argument(
            f'--{split}-panoptic',
            help='panoptic json, whose PNG files lie in a folder of its name')
    parser.add_argument(
        '--stages',
        type=int,
        nargs='+',
        default=(1, 2, 3),
        help='stages whose features are joined, from 0')
    parser.add_argument(
        '--grid-stride', type=at_least(1), default=16,
        help='pixels on each side of a cell (default: %(default)s)')
    parser.add_argument(
        '--long-side', type=at_least(1),
        help='of the images, in pixels (default: as they are)')
    parser.add_argument(
        '--max-images', type=at_least(1),
        help='of each split (default: all)')
    parser.add_argument(
        '--seed', type=int, default=0,
        help='of random weights and of the probes (default: %(default)s)')
    parser.add_argument('--out', help='JSON file to write')
    args = parser.parse_args()
    features = FrozenFeatures(
        load_frozen(args.backbone, tuple(args.stages), args.seed),
        grid_stride=args.grid_stride,
        long_side=args.long_side)
    options = vars(args)
    sides = []
    for split in ('train', 'val'):
        ann_file = osp.join(args.root, options[f'{split}_json'])
        truth = scenes = CocoTruth(ann_file)
        panoptic = options[f'{split}_panoptic']
        if panoptic:
            scenes = CocoTruth(ann_file, osp.join(args.root, panoptic))
        sides.append(
            ProbeImages(
                osp.join(args.root, options[f'{split}_images']), truth,
                scenes))
    train, val = sides
    found = run_probes(
        features, train, val, max_images=args.max_images, seed=args.seed)
    scores = {
        f'{probe} {name}': value
        for probe, values in found.items() for name, value in values.items()
    }
    for name, value in scores.items():
        print(f'{name:28} {value:.3f}')
    if args.out:
        os.makedirs(osp.dirname(args.out) or '.', exist_ok=True)
        with open(args.out, 'w', encoding='utf-8') as file:
            json.dump(
                dict(
                    task='frozen-probes',
                    start=args.backbone,
                    seed=args.seed,
                    scores=scores), file, indent=1)


if __name__ == '__main__':
    main()
