"""Measure what a start with an index of photographs takes.

Run: python tools/benchmarks/index_speed.py --num-images 10000000

Writes an index of made-up names, opens it as a data set in a new process, and
prints the seconds, the memory that the process has for itself alone, and the
time of a look-up.
"""
import argparse
import json
import os
import os.path as osp
import subprocess
import sys
import tempfile
import time

import numpy as np

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets import SceneDataset
from cyborgs_plugin.datasets.photo_index import PHOTO, write_index

_LOOKUPS = 10_000
_PER_SHARD = 10_000


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Measure what a start with an index takes')
    parser.add_argument(
        '--num-images', type=at_least(1), nargs='+',
        default=[1_000_000, 10_000_000],
        help='entries of each index (default: 1000000 10000000)')
    parser.add_argument(
        '--opens', metavar='INDEX', help='only open this index, and print '
        'JSON')
    return parser.parse_args()


def main() -> None:
    """Write an index of each size, and print a table row of it."""
    args = parse_args()
    if args.opens:
        print(json.dumps(opened(args.opens)))
        return
    print('| photographs | made in s | on disk MB | start in s | private MB | '
          'after look-ups MB | look-up in us |\n|' + '---|' * 7)
    for number in args.num_images:
        with tempfile.TemporaryDirectory() as folder:
            path = osp.join(folder, 'photos.index')
            begun = time.perf_counter()
            make(path, folder, number)
            made = time.perf_counter() - begun
            bytes_ = sum(entry.stat().st_size for entry in os.scandir(path))
            found = json.loads(subprocess.run(
                [sys.executable, __file__, '--opens', path], check=True,
                capture_output=True, text=True).stdout.splitlines()[-1])
            print(f'| {number} | {made:.1f} | {bytes_ / 1e6:.0f} | '
                  f'{found["start"]:.3f} | {found["private"]:.1f} | '
                  f'{found["after"]:.1f} | {found["look_up"]:.1f} |',
                  flush=True)


def make(path: str, root: str, number: int) -> None:
    """Write an index of tar files that do not exist."""
    names = [b'%05d/%09d.jpg' % (row // _PER_SHARD, row)
             for row in range(number)]
    photos = np.zeros(number, PHOTO)
    photos['shard'] = np.arange(number) // _PER_SHARD
    photos['start'], photos['length'] = 512, 100_000
    # As if on a store, since no start looks at these files.
    shards = [(f'{shard:05d}.tar', 1 << 30)
              for shard in range(-(-number // _PER_SHARD))]
    write_index(path, 's3://bucket/photographs', names, photos, shards)


def opened(path: str) -> dict[str, float]:
    """Open an index as a rank does, and look photographs up."""
    before, begun = private(), time.perf_counter()
    scenes = SceneDataset(index=path)
    images = scenes.images()
    count = len(images)
    start, start_memory = time.perf_counter() - begun, private() - before
    rows = np.random.default_rng(0).integers(0, count, _LOOKUPS).tolist()
    keys = [images[row][0] for row in rows]
    index = scenes.index
    begun = time.perf_counter()
    found = [index.row(key) for key in keys] if index is not None else []
    spent = time.perf_counter() - begun
    if found != rows:
        raise RuntimeError(f'{path}: a look-up found another photograph')
    return dict(start=start, private=start_memory, after=private() - before,
                look_up=1e6 * spent / _LOOKUPS)


def private() -> float:
    """Memory that this process has for itself alone, in MB."""
    with open('/proc/self/smaps_rollup', encoding='ascii') as file:
        lines = [line.split() for line in file]
    # A clean page of a file is the page cache's, mapped by one or by many.
    return sum(int(line[1]) for line in lines
               if line[0] == 'Private_Dirty:') * 1024 / 1e6


if __name__ == '__main__':
    main()
