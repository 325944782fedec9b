"""Measure how random the order of SceneSampler is, and what it costs.

Run: python tools/benchmarks/image_order.py
     python tools/benchmarks/image_order.py --memory 10000000

Draws an epoch of pretended tar files for the processes of one machine, by
windows of several sizes and by a full shuffle. With --memory, it measures
instead what the order takes in one process, each in a new one.
"""
import argparse
import json
import subprocess
import sys
import time
from collections import deque
from unittest import mock

import numpy as np
from mmengine.dataset import DefaultSampler

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.datasets import SceneSampler

_PER_FILE = 10_000
"""Photographs of a tar file where memory is measured."""
_FIRST = 1000
"""Photographs that are asked for there."""


class Pretended:
    """Photographs that are said to lie in tar files.

    Args:
        count (int): How many there are.
        per_file (int): How many each tar file holds.
    """

    def __init__(self, count: int, per_file: int) -> None:
        self.shard_numbers = (np.arange(count) // per_file).astype(np.int32)

    def __len__(self) -> int:
        return len(self.shard_numbers)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Measure how random the order of SceneSampler is')
    number = at_least(1)
    parser.add_argument('--files', type=number, default=1000,
                        help='tar files (default: 1000)')
    parser.add_argument('--per-file', type=number, default=1000,
                        help='photographs of each (default: 1000)')
    parser.add_argument('--processes', type=number, default=8,
                        help='of the machine (default: 8)')
    parser.add_argument('--batch-size', type=number, default=16,
                        help='of each process (default: 16)')
    parser.add_argument('--windows', type=number, nargs='+',
                        default=[1, 4, 16, 64], help='tar files that a '
                        'process shuffles together (default: 1 4 16 64)')
    parser.add_argument('--caches', type=number, nargs='+',
                        default=[16, 64, 256], help='tar files that the '
                        'machine keeps (default: 16 64 256)')
    parser.add_argument('--memory', type=number, metavar='PHOTOGRAPHS',
                        help='measure the memory of so many instead')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print one of the two tables."""
    args = parse_args()
    if args.one:
        print(json.dumps(cost(args.one, args.memory)))
    elif args.memory:
        print_memory(args.memory)
    else:
        print_randomness(args)


def print_randomness(args: argparse.Namespace) -> None:
    """Print a row for each window, and one for the full shuffle."""
    data = Pretended(args.files * args.per_file, args.per_file)
    batch = args.batch_size * args.processes
    heads = [
        'window', f'files in a batch of {batch}', 'pairs of one file in %',
        'neighbours apart in %',
        *(f'reads, cache of {cache}' for cache in args.caches)
    ]
    print(f'| {" | ".join(heads)} |\n|' + '---|' * len(heads))
    for window in (*args.windows, None):
        order = steps(data, args.processes, window)
        files = data.shard_numbers[order]
        distinct, pairs = in_batches(files.reshape(-1), batch)
        cells = [
            str(window or 'full shuffle'), f'{distinct:.1f}', f'{pairs:.2f}',
            f'{apart(order, data.shard_numbers):.1f}',
            *(f'{reads(files.reshape(-1).tolist(), cache) / args.files:.2f}'
              for cache in args.caches)
        ]
        print(f'| {" | ".join(cells)} |', flush=True)


def steps(data: Pretended, processes: int, window: int | None) -> np.ndarray:
    """Draw an epoch of all processes.

    Returns:
        np.ndarray: Photographs in the order of time, (steps, processes).
    """
    parts = []
    for rank in range(processes):
        with mock.patch('mmengine.dataset.sampler.get_dist_info',
                        lambda rank=rank: (rank, processes)):
            parts.append(list(SceneSampler(data, seed=0, window=window)))
    return np.array(parts).T


def in_batches(files: np.ndarray, batch: int) -> tuple[float, float]:
    """How many tar files a batch has, and pairs of one, in percent."""
    whole = files[:len(files) // batch * batch].reshape(-1, batch)
    distinct, same = [], []
    for each in whole:
        counts = np.unique(each, return_counts=True)[1]
        distinct.append(len(counts))
        same.append((counts * (counts - 1)).sum())
    pairs = batch * (batch - 1)
    return float(np.mean(distinct)), 100 * float(np.mean(same)) / pairs


def apart(order: np.ndarray, numbers: np.ndarray) -> float:
    """Median steps between neighbours of a tar file, in % of the epoch."""
    step = np.empty(len(numbers), np.int64)
    step[order] = np.arange(len(order))[:, None]
    together = numbers[1:] == numbers[:-1]
    return 100 * float(np.median(
        np.abs(np.diff(step))[together])) / len(order)


def reads(files: list[int], cache: int) -> int:
    """How often a tar file is read by a cache that drops the oldest."""
    kept, held, count = deque[int](), set[int](), 0
    for file in files:
        if file not in held:
            count += 1
            if len(kept) == cache:
                held.remove(kept.popleft())
            kept.append(file)
            held.add(file)
    return count


def print_memory(number: int) -> None:
    """Print what each order takes, in a process of its own."""
    print('| order | after the start MB | peak MB | bytes per photograph | '
          's to the first photographs |\n|' + '---|' * 5)
    for name in ('DefaultSampler', 'SceneSampler', 'SceneSampler window=8'):
        found = json.loads(subprocess.run(
            [sys.executable, __file__, '--memory', str(number), '--one', name],
            check=True, capture_output=True, text=True
        ).stdout.splitlines()[-1])
        print(f'| {name} | {found["start"]:.0f} | {found["peak"]:.0f} | '
              f'{1e6 * found["peak"] / number:.0f} | {found["seconds"]:.2f} |',
              flush=True)


def cost(name: str, number: int) -> dict[str, float]:
    """Memory of an order beyond that of the data set, in MB, and seconds."""
    data = Pretended(number, _PER_FILE)
    # The peak from here on
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
        file.write('5')
    before, begun = memory('VmRSS'), time.perf_counter()
    sampler = (DefaultSampler(data, seed=0) if name == 'DefaultSampler' else
               SceneSampler(data, seed=0,
                            window=8 if name.endswith('8') else None))
    start = memory('VmRSS') - before
    images = iter(sampler)
    for _ in range(min(_FIRST, number)):
        next(images)
    return dict(start=start, peak=memory('VmHWM') - before,
                seconds=time.perf_counter() - begun)


def memory(field: str) -> float:
    """A size of this process, in MB."""
    with open('/proc/self/status', encoding='ascii') as file:
        line, = (line for line in file if line.startswith(f'{field}:'))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == '__main__':
    main()
