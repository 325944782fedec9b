"""Look at the label maps of mask rounds, beside their images.

Run: python tools/browse_masks.py RUN
     python tools/browse_masks.py DATA_ROOT BANK [BANK ...] [--html PAGE.html]

RUN is the work_dir of a training; photographs and rounds are found by its
config, and a page of all rounds is written to RUN/masks.html, which a browser
opens. With DATA_ROOT and BANKs a PNG is written, with a row for each image and
a column for each clustering of each bank. --html and --out choose otherwise.

A BANK is a round's folder or the folder of the rounds, which stands for the
newest one, in a page for all of them.
"""
import argparse
import os.path as osp
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from _run_folder import RunFolder
from mmengine.utils import track_iter_progress

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets import BrokenImageError, MaskBank, read_image
from cyborgs_plugin.datasets.mask_bank import list_rounds, round_path
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.ops.matched_ids import matched_ids
from cyborgs_plugin.visualization import (
    PHOTO_SIDE,
    PageImage,
    contact_sheet,
    write_mask_page,
)

Reader = Callable[[str, int | None], np.ndarray]
"""Reads the image (H, W, 3), RGB, of a key; see ``least_side``."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Look at the label maps of mask rounds',
        usage='%(prog)s [options] RUN | DATA_ROOT BANK [BANK ...]')
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='PATH',
        help='work_dir of a run; or the data_root of its config, followed by '
        'mask rounds or folders of rounds')
    parser.add_argument(
        '--num-images',
        type=at_least(1),
        help='evenly spaced over the images (default: 8 in a PNG, 500 in a '
        'page)')
    parser.add_argument(
        '--keys', nargs='+', help='these images (paths below data_root)')
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        '--out', help='draw this PNG or JPEG (default: masks.png)')
    kind.add_argument(
        '--html', help='write this page for a browser (default of a RUN: '
        'RUN/masks.html)')
    args = parser.parse_args()
    if len(args.paths) == 1:
        if not args.out:
            args.html = args.html or osp.join(args.paths[0], 'masks.html')
    elif not args.html:
        args.out = args.out or 'masks.png'
    return args


@reported()
def main() -> None:
    """Write the page, or the contact sheet."""
    args = parse_args()
    try:
        banks, read, name = find(args.paths, bool(args.html))
        keys = args.keys or banks[-1].keys(
            args.num_images or (500 if args.html else 8))
        for key in keys:
            banks[-1].label_map(key)  # says which are there
        if args.html:
            page(banks, keys, read, name, args.html)
        else:
            sheet(banks, keys, read, args.out)
    except UserError:
        raise
    except (KeyError, ValueError) as error:
        raise UserError(f'{error.args[0]}') from error


def find(paths: Sequence[str],
         whole: bool) -> tuple[list[MaskBank], Reader, str]:
    """Find the rounds, and what reads their images.

    Args:
        paths (Sequence[str]): A run; or the root of the data, and banks.
        whole (bool): Whether a folder of rounds stands for all of them.

    Returns:
        Tuple: The rounds, the reader, and what they are called together.
    """
    if len(paths) == 1:
        run = RunFolder(paths[0])
        return run.rounds or [MaskBank.open(osp.join(run.path, 'masks'))], (
            reader_of(run)), osp.basename(osp.abspath(run.path))
    root, *names = paths
    banks = [
        bank for path in names
        for bank in (all_rounds(path) if whole else [MaskBank.open(path)])
    ]

    def read(key: str, least_side: int | None) -> np.ndarray:
        return read_image(
            osp.join(root, key), least_side=least_side)[..., ::-1]

    return banks, read, ', '.join(names)


def all_rounds(path: str) -> list[MaskBank]:
    """A round, or all rounds of a folder."""
    return [MaskBank(round_path(path, number))
            for number in list_rounds(path)] or [MaskBank.open(path)]


def reader_of(run: RunFolder) -> Reader:
    """Read the images of a run as its mask rounds do."""
    files = {
        key: (path, scenes.read_args)
        for scenes in run.scenes for key, path in scenes.images()
    }

    def read(key: str, least_side: int | None) -> np.ndarray:
        if key not in files:
            raise BrokenImageError(f'{key}: the photographs of '
                                   f'{run.config_file} no longer hold it')
        path, more = files[key]
        return read_image(path, least_side=least_side, **more)[..., ::-1]

    return read


def page(banks: Sequence[MaskBank], keys: Sequence[str], read: Reader,
         name: str, out: str) -> None:
    """Write the page of the first clustering of each round."""
    rounds = distinct([
        f'round {bank.round}' + (f', epoch {bank.manifest["epoch"]}'
                                 if 'epoch' in bank.manifest else '')
        for bank in banks
    ])
    broken = []

    def images() -> Iterator[PageImage]:
        for key in track_iter_progress(list(keys), file=sys.stderr):
            maps = [bank.label_map(key) if key in bank else None
                    for bank in banks]
            try:
                photo = read(key, PHOTO_SIDE)
            except BrokenImageError as error:
                broken.append(str(error))
                yield PageImage(key, None, broken=str(error))
            else:
                yield PageImage(key, photo, maps)

    size = write_mask_page(images(), rounds, f'Masks of {name}', out)
    for reason in broken:
        print(f'\nBroken: {reason}', end='')
    print(f'\nWrote {out} ({size / 1e6:.1f} MB): {len(keys)} images, '
          f'{", ".join(rounds)}. Open it in a browser')


def sheet(banks: Sequence[MaskBank], keys: Sequence[str], read: Reader,
          out: str) -> None:
    """Write the PNG of all clusterings of each round."""
    titles: list[str] = []
    maps: list[dict[str, np.ndarray]] = []
    for bank in banks:
        for number in range(bank.num_clusterings):
            titles.append(f'round {bank.round}')
            if bank.num_clusterings > 1:
                titles[-1] += f', clustering {number}'
            column = {key: bank.label_map(key, number) for key in keys}
            if maps:  # regions keep their colours
                column = {key: matched_ids(ids, maps[-1][key])
                          for key, ids in column.items()}
            maps.append(column)
    images = read_images(read, keys)
    columns = dict(zip(distinct(titles), maps, strict=True))
    path = contact_sheet([*images.values()], {
        title: [column[key] for key in images]
        for title, column in columns.items()
    }, out)
    print(f'Wrote {path}: {len(images)} images, {", ".join(columns)}')


def distinct(titles: Sequence[str]) -> list[str]:
    """Mark titles of rounds of different runs, which may be the same."""
    found: list[str] = []
    for title in titles:
        while title in found:
            title += "'"
        found.append(title)
    return found


def read_images(read: Reader, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Images by their keys, (H, W, 3), RGB; broken ones are left out.

    Raises:
        UserError: If none can be read.
    """
    images, broken = {}, []
    for key in keys:
        try:
            images[key] = read(key, None)
        except BrokenImageError as error:
            broken.append(str(error))
    if not images:
        raise UserError(
            f'{broken[0]}. No image could be read: keys are relative to the '
            'data_root of the config, which stands before the BANKs')
    for reason in broken:
        print(f'Left out: {reason}')
    return images


if __name__ == '__main__':
    main()
