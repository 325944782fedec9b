"""Time and peak memory of the way from label maps to region vectors."""
import argparse
import time

import torch
from loss_memory import peak_memory
from torch import Tensor

from cyborgs_plugin.models.regions import (
    cell_labels,
    pool_regions,
    sample_regions,
)


def main() -> None:
    """Print a row for each number of ids."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--batch', type=int, default=16,
        help='images (default: %(default)s)')
    parser.add_argument(
        '--num-ids', type=int, nargs='+', default=[2, 81, 256, 4096],
        help='numbers of ids in a label map (default: %(default)s)')
    args = parser.parse_args()
    features = torch.randn(args.batch, 3584, 7, 7)
    print(f'{args.batch} int16 maps of 224x224 to 7x7 cells, 3584 channels, '
          '16 regions')
    for num_ids in args.num_ids:
        maps = torch.randint(
            num_ids, (args.batch, 224, 224), dtype=torch.int16)
        region_ids = sample_regions(cell_labels(maps, (7, 7)), 16)

        def step(maps: Tensor = maps, region_ids: Tensor = region_ids) -> None:
            pool_regions(features, cell_labels(maps, (7, 7)), region_ids)

        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(f'{num_ids:5} ids  {1e3 * min(seconds):7.1f} ms  '
              f'{peak_memory(step) / 2**20:7.2f} MiB')


if __name__ == '__main__':
    main()
