"""What superpixels cost a mask round, in CPU time and memory.

Run: python tools/benchmarks/superpixel_cost.py --data-root PHOTOS

The round of a recipe's source with superpixels and without, on the same
groups of pictures in turn, by a random network; CPU seconds of all threads,
so that other work on the machine hardly counts. A process finds the
superpixels of a photograph once, so the first of its rounds with superpixels
costs more than those that follow. Peak memory is that of a process of its own
that makes one round.
"""
import argparse
import logging
import multiprocessing
import os.path as osp
import resource
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mask_update_speed import find_images
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TASK_UTILS

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.errors import reported
from cyborgs_plugin.segmentation import make_round

CONFIG = osp.join(
    osp.dirname(__file__), '..', '..', 'configs', 'cyborgs_small_data.py')
LATER = 'later rounds'


def build(config: str, superpixels: bool) -> Any:
    """The source of a config, prepared, with superpixels or without."""
    cfg = load_config(config)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    cfg.model.backbone.pop('init_cfg', None)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    options = dict(cfg.default_hooks.mask_update.source)
    if not superpixels:
        options.update(superpixels=None, colour_weight=0., linkage=None)
    source = TASK_UTILS.build(options)
    source.prepare(backbone, MODELS.build(cfg.model.data_preprocessor))
    warm = source.preprocess(np.zeros((480, 640, 3), np.uint8))
    source.label_maps([warm], ['warm'], (0, 0))
    return source


def cpu_seconds(source: Any, paths: Sequence[str], number: int) -> float:
    """CPU time of a round of one group."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        make_round(source, [(path, path) for path in paths], folder, number,
                   0, group_size=len(paths), progress=False)
        return time.process_time() - start


def peak_memory(queue: Any, config: str, superpixels: bool,
                paths: Sequence[str], group_size: int) -> None:
    """Put the largest size of this process, in MiB, into a queue."""
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    source = build(config, superpixels)
    with tempfile.TemporaryDirectory() as folder:
        make_round(source, [(path, path) for path in paths], folder, 0, 0,
                   group_size=group_size, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put(peak / 1024)


@reported()
def main() -> None:
    """Print seconds per image and peak memory of both, and the ratio."""
    parser = argparse.ArgumentParser(
        description='What superpixels cost a mask round')
    parser.add_argument('--data-root', required=True, help='image folder')
    parser.add_argument(
        '--config', default=CONFIG,
        help='recipe whose mask source is measured (default: %(default)s)')
    parser.add_argument(
        '--num-images', type=int, default=64,
        help='of the round (default: %(default)s)')
    parser.add_argument(
        '--group-size', type=int,
        help="images that are clustered together (default: the recipe's)")
    args = parser.parse_args()
    args.group_size = args.group_size or load_config(
        args.config).default_hooks.mask_update.group_size
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    paths = find_images(args.data_root, args.num_images)
    kinds = 'cells', 'superpixels'
    sources = {name: build(args.config, name == 'superpixels')
               for name in kinds}
    sources[LATER] = sources['superpixels']
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for start in range(0, len(paths), args.group_size):
        group = paths[start:start + args.group_size]
        for name, source in sources.items():
            seconds[name].append(cpu_seconds(source, group, start))
    processes = multiprocessing.get_context('spawn')
    for name in kinds:
        queue = processes.Queue()
        child = processes.Process(
            target=peak_memory,
            args=(queue, args.config, name == 'superpixels', paths,
                  args.group_size))
        child.start()
        peak = queue.get()
        child.join()
        print(f'{name:12} {sum(seconds[name]) / len(paths):.4f} s of CPU per '
              f'image, peak {peak:.0f} MiB')
    for name, kind in (('first round', 'superpixels'), (LATER, LATER)):
        ratios = np.divide(seconds[kind], seconds['cells'])
        print(f'{name}: {np.median(ratios):.3f} of the CPU time of cells '
              f'(groups: {ratios.min():.3f} to {ratios.max():.3f})')


if __name__ == '__main__':
    main()
