"""How a run's health goes together with its probes, over its epochs.

Run: python tools/benchmarks/mini_coco.py --budget full --methods cyborgs \
         --seeds 0 --phases 9 --probe-each-phase --data-root data/coco_mini
     python tools/benchmarks/health_correlation.py \
         work_dirs/mini_coco_full/cyborgs_s0
"""
import argparse
import json
import os.path as osp
from typing import Any

import numpy as np
from mini_coco_report import PROBES
from scipy.stats import spearmanr

from cyborgs_plugin.errors import MissingFileError, UserError, reported

HEALTH = ('image_rank', 'image_spread', 'image_cosine', 'region_rank',
          'region_spread', 'region_cosine', 'contrast_to_chance', 'loss')
_FEWEST = 3


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'runs',
        nargs='+',
        help='folders of runs of mini_coco.py, with health.json and '
        'scores.json')
    return parser.parse_args()


def read(path: str) -> dict[str, Any]:
    """Read a json of a run."""
    if not osp.isfile(path):
        raise MissingFileError(
            f'{path} is missing: name a folder that mini_coco.py has made, '
            'such as work_dirs/mini_coco_full/cyborgs_s0')
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def curves(run: str) -> tuple[list[int], dict[str, list[float]],
                              dict[str, list[float]]]:
    """Epochs that were measured and probed, and both courses over them.

    Args:
        run (str): The folder of a run.
    """
    health = {entry['epoch']: entry
              for entry in read(osp.join(run, 'health.json'))['epochs']}
    points = {int(epoch): point for epoch, point in read(
        osp.join(run, 'scores.json'))['points'].items()}
    epochs = sorted(epoch for epoch in set(health) & set(points)
                    if epoch and PROBES[0][0] in points[epoch])
    if len(epochs) < _FEWEST:
        raise UserError(
            f'{run} has {len(epochs)} epochs with both health and probes, but '
            f'{_FEWEST} are the least: run mini_coco.py with '
            '--probe-each-phase and more --phases')
    scores = {title: [points[epoch][kind][name] for epoch in epochs]
              for kind, name, title in PROBES}
    for k in points[epochs[0]]['masks']:
        scores[f'mBO, K={k}'] = [points[epoch]['masks'][k]['mBO']
                                 for epoch in epochs]
    found = {
        name: [health[epoch][name] for epoch in epochs]
        for name in HEALTH if all(name in health[epoch] for epoch in epochs)
    }
    return epochs, found, scores


def table(run: str) -> str:
    """Spearman's rank correlation of each health number with each score."""
    epochs, health, scores = curves(run)
    lines = [f'{run}: rank correlation over epochs '
             + ', '.join(map(str, epochs)),
             '| | first -> last | ' + ' | '.join(scores) + ' |',
             '|---|---' + '|---' * len(scores) + '|']
    for name, course in health.items():
        cells = [_correlation(course, score) for score in scores.values()]
        lines.append(f'| {name} | {_ends(course)} | ' + ' | '.join(cells)
                     + ' |')
    lines.append('| first -> last | | '
                 + ' | '.join(map(_ends, scores.values())) + ' |')
    return '\n'.join(lines)


def _correlation(first: list[float], second: list[float]) -> str:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 'none'  # of a constant
    return f'{np.asarray(spearmanr(first, second)[0]):+.2f}'


def _ends(course: list[float]) -> str:
    return f'{course[0]:.3g} -> {course[-1]:.3g}'


@reported()
def main() -> None:
    """Print a table of each run."""
    for run in parse_args().runs:
        print(table(run))


if __name__ == '__main__':
    main()
