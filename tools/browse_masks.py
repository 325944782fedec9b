"""Look at the label maps of mask rounds, beside their images.

Run: python tools/browse_masks.py DATA_ROOT BANK [BANK ...]

A BANK is a round's folder or the folder of the rounds, which stands for the
newest one. Writes a PNG with a row for each image and a column for each
clustering of each bank.
"""
import argparse
import os.path as osp

import numpy as np

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
        type=int,
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
        columns: dict[str, list[np.ndarray]] = {}
        for bank in banks:
            for number in range(bank.num_clusterings):
                title = f'round {bank.round}'
                if bank.num_clusterings > 1:
                    title += f', clustering {number}'
                while title in columns:  # rounds of different runs
                    title += "'"
                columns[title] = [bank.label_map(key, number) for key in keys]
        images = [
            read_image(osp.join(args.data_root, key))[..., ::-1]
            for key in keys
        ]
    except BrokenImageError as error:
        raise UserError(f'{error}. Keys are relative to the data_root of '
                        f'the config; given was {args.data_root}') from error
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise UserError(f'{error.args[0]}') from error
    print(f'Wrote {contact_sheet(images, columns, args.out)}: {len(keys)} '
          f'images, {", ".join(columns)}')


if __name__ == '__main__':
    main()
