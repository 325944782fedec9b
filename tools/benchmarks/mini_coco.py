r"""CYBORGS and its baselines on one budget, then frozen probes of all.

Run: python tools/benchmarks/mini_coco.py --budget full \
         --data-root data/coco_mini
     python tools/benchmarks/mini_coco.py --data-root data/coco --gpus 8 \
         --depth 50 --view-size 224 --grid-stride 32 --batch-size 128 \
         --steps 90000 --pretrain-on train2017 --max-eval-images 2000

Finished runs are not repeated: interrupt it and call it again.
"""
import argparse
import datetime
import os
import os.path as osp
import platform
import signal
import subprocess
import sys
import time
from typing import Any

import mini_coco_report as report
import torch
from mini_coco_score import Scores
from mini_coco_train import BUDGETS, METHODS, ON_DEMAND, ROOT, Trainings, write
from mmengine.config import DictAction
from mmengine.logging import MMLogger

import cyborgs_plugin
from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.errors import reported


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--data-root', required=True, help='data laid out like COCO')
    parser.add_argument(
        '--budget', choices=BUDGETS, default='smoke',
        help='smoke only shows that everything works (default: smoke)')
    parser.add_argument(
        '--work-dir', default='work_dirs/mini_coco_{budget}',
        help='folder of runs and scores (default: %(default)s)')
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=('random', *METHODS, *ON_DEMAND),
        metavar='METHOD',
        help=f'of {", ".join(("random", *METHODS, *ON_DEMAND))} (default: '
        f'all but {", ".join(ON_DEMAND)}); distill needs TEACHER=FILE before '
        'the command, start and continue need START=FILE')
    parser.add_argument(
        '--seeds',
        nargs='+',
        type=int,
        help="of every method (default: the budget's)")
    parser.add_argument(
        '--pretrain-on',
        nargs='+',
        help='folders (default: train2017 and, if it exists, unlabeled2017)')
    parser.add_argument(
        '--depth', type=int, choices=(18, 50), default=18,
        help='of the ResNet (default: 18)')
    parser.add_argument(
        '--grid-stride', type=int, default=16,
        help='pixels on each side of a cell of a view (default: 16)')
    parser.add_argument(
        '--steps', type=at_least(1),
        help="of each run (default: the budget's)")
    parser.add_argument(
        '--phases',
        type=at_least(1),
        help='parts of a run, each with a mask round of its own')
    parser.add_argument(
        '--probe-each-phase',
        action='store_true',
        help='probe after every phase instead of after each third')
    parser.add_argument(
        '--view-size', type=at_least(1), help='pixels on each side of a view')
    parser.add_argument(
        '--batch-size', type=at_least(1),
        help='images per step, of all GPUs together')
    parser.add_argument(
        '--max-images', type=at_least(1), help='to train on (default: all)')
    parser.add_argument(
        '--max-eval-images', type=at_least(1),
        help='on each side of the probes (default: all)')
    parser.add_argument(
        '--long-side',
        type=at_least(1),
        help='of the images that are probed, in pixels')
    parser.add_argument(
        '--gpus',
        type=at_least(1),
        default=1,
        help='processes per training run (default: 1)')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train and make mask rounds in mixed precision')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='further settings of every run')
    return parser.parse_args()


def about(trainings: Trainings, scores: Scores) -> dict[str, Any]:
    """Where, when and with what the numbers came about."""
    return dict(
        command=' '.join(sys.argv),
        budget=trainings.budget._asdict(),
        images=len(trainings.images),
        annotated_images=len(trainings.annotated),
        depth=trainings.args.depth,
        panoptic=bool(scores.panoptic['train'] and scores.panoptic['val']),
        machine=f'{platform.machine()}, {os.cpu_count()} cores, '
        f'{_processor()}'
        + (f', {trainings.args.gpus} x {torch.cuda.get_device_name()}'
           if torch.cuda.is_available() else ''),
        versions=dict(
            python=platform.python_version(),
            torch=torch.__version__,
            cyborgs_plugin=cyborgs_plugin.__version__),
        commit=_commit(),
        date=datetime.datetime.now(
            datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'))


def _commit() -> str:
    found = subprocess.run(['git', 'describe', '--always', '--dirty'],
                           cwd=ROOT, capture_output=True, text=True,
                           check=False)
    return found.stdout.strip() or 'unknown'


def _processor() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            names = [line.split(':')[1].strip() for line in file
                     if line.startswith('model name')]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


@reported()
def main() -> None:
    """Train, judge, report."""
    # A terminated benchmark takes its training run along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # else every weight's initialisation is told
    MMLogger.get_instance('mini_coco', log_level='WARNING')
    trainings = Trainings(parse_args())
    scores = Scores(trainings)
    start = time.time()
    runs: dict[str, dict[str, Any]] = {}
    results: dict[str, Any] = dict(
        about=about(trainings, scores), floors=scores.floors(), runs={})
    for method, seed in trainings.runs():
        name = f'{method}_s{seed}'
        runs[name] = trainings.train(method, seed)
        results['runs'][name] = dict(
            method=method,
            seed=seed,
            epochs=runs[name]['epochs'],
            steps=runs[name]['steps'],
            seconds=runs[name]['seconds'],
            loss=report.read_log(runs[name]['folder'], ('loss', 'step')),
            rounds=report.read_log(
                runs[name]['folder'], ('masks/mBO', 'step')),
            points=scores.judge(method, seed, runs[name]))
        write(osp.join(trainings.work, 'results.json'), results)
    results['bars'] = report.bars(results)
    results['seconds'] = time.time() - start
    write(osp.join(trainings.work, 'results.json'), results)
    files = report.write(results, trainings.work)
    sheet = scores.sheet(runs)
    print(f'\n{report.table(results)}\n\n{report.bars_text(results)}\n')
    if trainings.args.budget == 'smoke':
        print('A smoke run shows that everything works; its scores are '
              'chance.\n')
    print('\n'.join(filter(None, [*files, sheet])))
    print(f'{results["seconds"] / 60:.1f} min, of which finished runs took '
          'none')


if __name__ == '__main__':
    main()
