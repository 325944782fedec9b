"""Look at the label maps of mask rounds, beside their images.

Run: python tools/browse_masks.py DATA_ROOT BANK [BANK ...]

A BANK is a round's folder or the folder of the rounds, which stands for the
newest one. Writes a PNG with a row for each image and a column for each
clustering of each bank.
"""
import argparse
import os.path as osp
from collections.abc import Sequence

import numpy as np

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets import BrokenImageError, MaskBank, read_image
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.visualization import contact_sheet


@reported()
def main() -> None:
    """Write the contact sheet."""
    parser = argparse.ArgumentParser(
        description='Look at the label maps of mask rounds')
    parser.add_argument('data_root', help='data_root of the config')
    parser.add_argument(
        'banks', nargs='+', metavar='BANK', help='round, or folder of rounds')
    parser.add_argument(
        '--num-images',
        type=at_least(1),
        default=8,
        help='rows, evenly spaced over the images (default: 8)')
    parser.add_argument(
        '--keys', nargs='+', help='these images (paths below data_root)')
    parser.add_argument(
        '--out', default='masks.png', help='the PNG (default: masks.png)')
    args = parser.parse_args()
    try:
        banks = [MaskBank.open(path) for path in args.banks]
        keys = args.keys or banks[0].keys(args.num_images)
        columns: dict[str, dict[str, np.ndarray]] = {}
        for bank in banks:
            for number in range(bank.num_clusterings):
                title = f'round {bank.round}'
                if bank.num_clusterings > 1:
                    title += f', clustering {number}'
                while title in columns:  # rounds of different runs
                    title += "'"
                columns[title] = {
                    key: bank.label_map(key, number)
                    for key in keys
                }
        images = read_images(args.data_root, keys)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise UserError(f'{error.args[0]}') from error
    sheet = contact_sheet([*images.values()], {
        title: [maps[key] for key in images]
        for title, maps in columns.items()
    }, args.out)
    print(f'Wrote {sheet}: {len(images)} images, {", ".join(columns)}')


def read_images(data_root: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Images by their keys, (H, W, 3), RGB; broken ones are left out.

    Raises:
        UserError: If none can be read.
    """
    images, broken = {}, []
    for key in keys:
        try:
            images[key] = read_image(osp.join(data_root, key))[..., ::-1]
        except BrokenImageError as error:
            broken.append(str(error))
    if not images:
        raise UserError(
            f'{broken[0]}. No image could be read: keys are relative to the '
            f'data_root of the config; given was {data_root}')
    for reason in broken:
        print(f'Left out: {reason}')
    return images


if __name__ == '__main__':
    main()
