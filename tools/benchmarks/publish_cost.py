"""Seconds for which all ranks wait while rank 0 publishes a mask round.

Run: python tools/benchmarks/publish_cost.py --num-images 1000000 --ranks 8

This process writes the parts of all ranks, one after the other, as mask
rounds do: maps of 60x80, those of 640x480 images. Then it publishes them, and
reads some. The disk must have room for 4.8 kB per image, in format 1 for twice
that. See docs/scaling.md.
"""
import argparse
import os
import os.path as osp
import random
import tempfile
import time
from collections.abc import Callable

import numpy as np

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets.mask_arrays import MaskBankWriter
from cyborgs_plugin.datasets.mask_bank import (
    FORMATS,
    MaskBank,
    publish_blocks,
    publish_round,
)
from cyborgs_plugin.datasets.mask_blocks import BlockWriter
from cyborgs_plugin.errors import reported
from cyborgs_plugin.segmentation.groups import KeyedGroups, ShuffledGroups

_MAPS = np.random.default_rng(0).integers(0, 256, (64, 60, 80), np.uint8)


def write_arrays(root: str, keys: list[str], ranks: int,
                 group_size: int) -> Callable[[], MaskBank]:
    """Write the ranks' parts in format 1; returns what publishes them."""
    groups = ShuffledGroups(len(keys), 0, 0, group_size)
    for rank in range(ranks):
        writer = MaskBankWriter(root, 0, rank)
        for group in groups.of_rank(rank, ranks):
            for index in groups.members(group):
                writer.add(index, keys[index], _MAPS[index % len(_MAPS)])
        writer.close()
    return lambda: publish_round(root, 0, len(keys), {})


def write_blocks(root: str, keys: list[str], ranks: int,
                 group_size: int) -> Callable[[], MaskBank]:
    """Write the ranks' parts in format 2; returns what publishes them."""
    groups, blocks = KeyedGroups(keys, 0, 0, group_size), []
    for rank in range(ranks):
        writer = BlockWriter(root, 0, groups.salt, rank)
        for group in groups.of_rank(rank, ranks):
            for index in groups.members(group):
                writer.add(groups.block(group), keys[index],
                           _MAPS[index % len(_MAPS)])
        blocks += writer.close()
    return lambda: publish_blocks(root, 0, groups.layout(), blocks, {})


def measure(bank_format: int, folder: str, args: argparse.Namespace) -> None:
    """Write, publish and read one round, and print a line."""
    keys = [f'train2017/{number:012d}.jpg'
            for number in range(args.num_images)]
    write = write_arrays if bank_format == 1 else write_blocks
    with tempfile.TemporaryDirectory(dir=folder) as root:
        begun = time.perf_counter()
        publish = write(root, keys, args.ranks, args.group_size)
        written = time.perf_counter()
        path = publish().path
        published = time.perf_counter()
        bank = MaskBank(path)
        opened = time.perf_counter()
        asked = random.Random(0).sample(keys, min(20_000, len(keys)))
        for key in asked:  # maps what it needs
            bank.label_map(key)
        mapped = time.perf_counter()
        for key in asked:
            bank.label_map(key)
        read = time.perf_counter()
        MaskBank(path, verify=True)
        verified = time.perf_counter()
        files = os.listdir(path)
        manifest = osp.getsize(osp.join(path, 'manifest.json'))
        print(f'{bank_format:6d}  {written - begun:7.1f}  '
              f'{published - written:9.3f}  {opened - published:6.4f}  '
              f'{1e6 * (mapped - opened) / len(asked):11.1f}  '
              f'{1e6 * (read - mapped) / len(asked):7.1f}  '
              f'{verified - read:8.2f}  {len(files):5d}  '
              f'{manifest / 1000:11.1f}', flush=True)


@reported()
def main() -> None:
    """Print a line for each format."""
    parser = argparse.ArgumentParser(
        description='Seconds to publish a mask round')
    parser.add_argument(
        '--num-images', type=at_least(1), default=100_000,
        help='(default: %(default)s)')
    parser.add_argument(
        '--ranks', type=at_least(1), default=8,
        help='ranks whose parts are written (default: %(default)s)')
    parser.add_argument(
        '--group-size', type=at_least(1), default=16,
        help='images that are clustered together (default: %(default)s)')
    parser.add_argument(
        '--formats', type=int, nargs='+', choices=FORMATS, default=FORMATS,
        help='of the bank (default: both)')
    parser.add_argument(
        '--folder', help='where to write (default: that of temporary files)')
    args = parser.parse_args()
    print(f'{args.num_images} images, {args.ranks} ranks, groups of '
          f'{args.group_size}\n'
          'format  write s  publish s  open s  1st read us  read us  '
          'verify s  files  manifest kB')
    for bank_format in args.formats:
        measure(bank_format, args.folder, args)


if __name__ == '__main__':
    main()
