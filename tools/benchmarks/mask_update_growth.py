"""Time and memory of a mask round as the number of images grows.

Run: python tools/benchmarks/mask_update_growth.py --data-root FOLDER
     python tools/benchmarks/mask_update_growth.py --tiny --num-images 25000

Each size runs in a process of its own, as ``make_round`` on one rank; where
the folder has fewer images they come again under other keys. With --tiny the
images are 8x8 pixels and the masks a grid: what is left is the bookkeeping,
whose memory grows with the number of images. See docs/scaling.md.
"""
import argparse
import multiprocessing
import os
import os.path as osp
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from cyborgs_plugin.errors import UserError, reported


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MiB."""
    with open('/proc/self/status') as file:
        return next(
            int(line.split()[1]) / 1024 for line in file
            if line.startswith('VmHWM'))


class Repeated(Sequence):
    """Images of a folder, as many as asked for; holds the names alone."""

    def __init__(self, folder: str, number: int) -> None:
        self.folder, self.number = folder, number
        self.names = sorted(os.listdir(folder))

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.number:  # what ends a loop over it
            raise IndexError(index)
        copy, place = divmod(index, len(self.names))
        name = self.names[place]
        return f'{copy:08d}/{name}', osp.join(self.folder, name)


def measure(folder: str, number: int, tiny: bool, group_size: int,
            threads: int, queue: Any) -> None:
    """Make one round and report."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # of the progress bar
    import torch
    from mmpretrain.models import ResNet, SelfSupDataPreprocessor

    from cyborgs_plugin.segmentation import (
        GridMasks,
        MaskSource,
        NetworkMasks,
        make_round,
    )

    class Cells(GridMasks):
        """Maps as large as those of 640x480 images, for nothing."""

        def label_maps(self, images: Sequence[np.ndarray],
                       keys: Sequence[str],
                       seed: Sequence[int]) -> list[np.ndarray]:
            return [np.arange(4800).reshape(60, 80) % 256 for _ in images]

    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    source: MaskSource = Cells() if tiny else NetworkMasks()
    if not tiny:
        source.prepare(
            ResNet(50),
            SelfSupDataPreprocessor((123.675, 116.28, 103.53),
                                    (58.395, 57.12, 57.375), to_rgb=True))
    with tempfile.TemporaryDirectory() as root:
        before, start = peak_memory(), time.perf_counter()
        bank = make_round(
            source, Repeated(folder, number), root, 0, 0, group_size)
        seconds = time.perf_counter() - start
        size = sum(
            osp.getsize(osp.join(bank.path, name))
            for name in os.listdir(bank.path))
    queue.put((seconds, before, peak_memory(), size))


@reported()
def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(
        description='Time and memory of a mask round as images grow')
    parser.add_argument('--data-root', help='folder of images')
    parser.add_argument(
        '--tiny', action='store_true', help='measure only the bookkeeping')
    parser.add_argument(
        '--num-images', type=int, default=32,
        help='of the smallest round (default: %(default)s)')
    parser.add_argument(
        '--scales', type=int, nargs='+', default=[1, 2, 4],
        help='multiples of --num-images to measure (default: %(default)s)')
    parser.add_argument(
        '--group-size', type=int, default=16,
        help='images that are clustered together (default: %(default)s)')
    parser.add_argument(
        '--threads', type=int, default=os.cpu_count(), help='of torch')
    args = parser.parse_args()
    if (args.data_root is None) != args.tiny:
        parser.error('give either --data-root or --tiny')
    with tempfile.TemporaryDirectory() as folder:
        cv2.imwrite(osp.join(folder, 'x.png'), np.zeros((8, 8, 3), np.uint8))
        context = multiprocessing.get_context('spawn')
        rows = []
        print(f'{args.threads} threads, groups of {args.group_size}')
        print('images  seconds  s/image  MiB before  MiB peak  bytes/image')
        for scale in args.scales:
            number, queue = scale * args.num_images, context.SimpleQueue()
            child = context.Process(
                target=measure,
                args=(folder if args.tiny else args.data_root, number,
                      args.tiny, args.group_size, args.threads, queue))
            child.start()
            child.join()
            if child.exitcode:
                raise UserError(f'{number} images: see above')
            seconds, before, peak, size = queue.get()
            rows.append((number, seconds / number, peak))
            print(f'{number:6d}  {seconds:7.1f}  {seconds / number:7.4f}  '
                  f'{before:10.0f}  {peak:8.0f}  {size / number:11.0f}',
                  flush=True)
    images, each, peaks = zip(*rows)
    if len(images) > 1:
        growth = (peaks[-1] - peaks[0]) * 2**20 / (images[-1] - images[0])
        print(f'time_ratio: {each[-1] / each[0]:.2f} '
              f'peak_growth_mib: {peaks[-1] - peaks[0]:.1f} '
              f'bytes_of_memory_an_image: {growth:.0f}')


if __name__ == '__main__':
    main()
