"""Write the masks of a round as objects without classes, in COCO's format.

Run: python tools/export_masks.py RUN --coco OUT.json

RUN is the work_dir of a training. Each connected part of a region that is
neither too small nor too large, and that other clusterings or the round before
have found too, becomes an object of the one class 'object'. A detector trained
on them (configs/transfer/*class-agnostic*) is a start for a fine-tune with
labels, heads included.
"""
import argparse
import json
import os
import os.path as osp
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from _run_folder import RunFolder
from mmengine.utils import track_iter_progress
from pycocotools import mask as coco_mask

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets import BrokenImageError, MaskBank, read_image
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.files import written_aside
from cyborgs_plugin.ops.instances import Instance, find_instances
from cyborgs_plugin.ops.label_maps import resize_label_map


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('run', help='work_dir of a training')
    parser.add_argument('--coco', required=True, help='the json to write')
    parser.add_argument('--round', type=at_least(0),
                        help='number of the round (default: the newest)')
    parser.add_argument('--max-images', type=at_least(1),
                        help='evenly spread (default: all)')
    parser.add_argument(
        '--min-area', type=float, default=0.01,
        help='share of the image (default: 0.01)')
    parser.add_argument(
        '--max-area', type=float, default=0.5,
        help='share of the image (default: 0.5)')
    parser.add_argument(
        '--min-score', type=float, default=0.3,
        help='overlap with what other clusterings, or the round before, have '
        'found there (default: 0.3)')
    parser.add_argument(
        '--max-border', type=float, default=0.5,
        help='share of the border of the image that an object may cover '
        '(default: 0.5)')
    parser.add_argument('--max-per-image', type=at_least(1), default=30,
                        help='those with the highest scores (default: 30)')
    args = parser.parse_args()
    for name in ('min_area', 'max_area', 'min_score', 'max_border'):
        if not 0 <= getattr(args, name) <= 1:
            parser.error(f'--{name.replace("_", "-")} is a share, 0 to 1')
    return args


@reported()
def main() -> None:
    """Find the objects of each image and write them."""
    args = parse_args()
    run = RunFolder(args.run)
    bank, before = choose_round(run, args.round)
    content = export(run, bank, before, args)
    os.makedirs(osp.dirname(args.coco) or '.', exist_ok=True)
    with written_aside(args.coco) as aside, open(
            aside, 'w', encoding='utf-8') as file:
        json.dump(content, file)
    counts = Counter(each['image_id'] for each in content['annotations'])
    print(f'\nWrote {args.coco}: {len(content["annotations"])} objects in '
          f'{len(counts)} of {len(content["images"])} images of round '
          f'{bank.round}. Names of files are relative to the data_root of '
          f'{run.config_file}')


def choose_round(run: RunFolder,
                 number: int | None) -> tuple[MaskBank, MaskBank | None]:
    """The round that is exported, and the one before it.

    Raises:
        UserError: If there is none, or none of this number.
    """
    rounds = {bank.round: bank for bank in run.rounds}
    if not rounds:
        raise UserError(f'{run.path} has no mask rounds: a run makes the '
                        'first at its start')
    number = max(rounds) if number is None else number
    if number not in rounds:
        raise UserError(f'{run.path} has no round {number} but '
                        f'{sorted(rounds)}')
    earlier = [each for each in rounds if each < number]
    return rounds[number], rounds[max(earlier)] if earlier else None


def export(run: RunFolder, bank: MaskBank, before: MaskBank | None,
           args: argparse.Namespace) -> dict[str, Any]:
    """Make the json.

    Args:
        run (RunFolder): Knows the images.
        bank (MaskBank): The round.
        before (MaskBank, optional): The one before it.
        args (argparse.Namespace): The limits.

    Returns:
        dict: In COCO's format; an annotation has its ``score``, too.
    """
    files = {
        key: (path, scenes.read_args)
        for scenes in run.scenes for key, path in scenes.images()
    }
    keys = [key for key in bank.keys(args.max_images) if key in files]
    if not keys:
        raise UserError(f'{run.path}: no image of round {bank.round} is among '
                        f'the photographs of {run.config_file}')
    images: list[dict] = []
    annotations: list[dict] = []
    for key in track_iter_progress(keys):
        path, options = files[key]
        try:
            size = read_image(path, **options).shape[:2]
        except BrokenImageError as error:
            print(f'\nLeft out: {error}')
            continue
        images.append(dict(id=len(images) + 1, file_name=key, height=size[0],
                           width=size[1]))
        maps = [*bank.label_maps(key)]
        others = maps[1:]
        if not others and before is not None and key in before:
            others = [before.label_map(key)]
        found = find_instances(maps[0], others, args.min_area, args.max_area,
                               args.min_score, args.max_border)
        annotations += records(found[:args.max_per_image], size,
                               len(images), len(annotations))
    if not annotations:
        raise UserError(
            f'No part of a region is an object by these limits ({len(images)} '
            'images): lower --min-score or --min-area')
    return dict(
        info=dict(description=f'mask round {bank.round} of {run.path}',
                  round_sha256=bank.hash),
        images=images, annotations=annotations,
        categories=[dict(id=1, name='object')])


def records(found: Sequence[Instance], size: tuple[int, ...], image_id: int,
            count: int) -> list[dict[str, Any]]:
    """The annotations of an image.

    Args:
        found (Sequence[Instance]): Its objects.
        size (tuple[int, ...]): Height and width of the image.
        image_id (int): Its id.
        count (int): Number of annotations so far.
    """
    made = []
    for number, (cells, score) in enumerate(found, count + 1):
        mask = resize_label_map(cells.astype(np.uint8), size)
        code = coco_mask.encode(np.asfortranarray(mask))
        made.append(dict(
            id=number, image_id=image_id, category_id=1, iscrowd=0,
            area=int(coco_mask.area(code)),
            bbox=[float(side) for side in coco_mask.toBbox(code)],
            segmentation=dict(size=[int(side) for side in code['size']],
                              counts=code['counts'].decode()),
            score=round(score, 4)))
    return made


if __name__ == '__main__':
    main()
