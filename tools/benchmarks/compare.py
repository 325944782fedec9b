r"""Compare the weights that a detector can start from, with few labels.

Run: python tools/benchmarks/compare.py --data TRAIN.json VAL.json \
         --starts random imagenet=FILE cyborgs=RUN --labels 1 5 10 100

Trains from each start on the same nested parts of the labels, with the same
seeds, and says which differences are shown and which are not: compare.html,
compare.md and results.json in --out. `--task probe` fits classifiers on frozen
features instead, in minutes. A comparison that was stopped is resumed by the
same command.
"""
import argparse
import json
import logging
import os
import os.path as osp
import time
from typing import Any

from compare_data import LabelledData
from compare_probe import Probes
from compare_starts import Start, find_backbone, find_start
from mmengine.config import DictAction

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.evaluation.comparison import Cell, rows_of, sentences
from cyborgs_plugin.evaluation.label_splits import WHOLE, split_name
from cyborgs_plugin.files import sha256, written_aside
from cyborgs_plugin.safe_load import loading_safely
from cyborgs_plugin.visualization.comparison_page import (
    ComparisonPage,
    write_comparison,
)

_CONFIGS = dict(
    detection='cyborgs_plugin::transfer/mask-rcnn_r18_fpn_random_coco-mini.py',
    segmentation='cyborgs_plugin::transfer/fpn_r18_random_own-masks.py')
_PAUSE = 30  # seconds between two versions of the pages


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--data', nargs='+', required=True, metavar='JSON',
        help="annotations in COCO's format to learn from, and others to score "
        'on; of one json a fifth of the images is held out')
    parser.add_argument(
        '--images', nargs='+', default=[], metavar='FOLDER',
        help='folder of the images of each json (default: looked for beside '
        'it)')
    parser.add_argument(
        '--starts', nargs='+', required=True,
        help='random, NAME=FILE (or timm:MODEL), NAME=RUN, the work_dir of a '
        'pretraining, or of a detector, which is loaded whole')
    parser.add_argument(
        '--against', metavar='NAME',
        help='the start that others are compared with (default: the first '
        'that is no run and not random, else the first)')
    parser.add_argument(
        '--labels', type=float, nargs='+', default=[1, 5, 10, 100],
        help='shares of the labels in per cent (default: 1 5 10 100)')
    parser.add_argument(
        '--seeds', type=at_least(1), default=3,
        help='draws of the labels, and trainings on each (default: 3)')
    parser.add_argument(
        '--task', choices=['detection', 'segmentation', 'probe'],
        default='detection',
        help='what is trained (default: detection); probe: classifiers on '
        'frozen features alone')
    parser.add_argument(
        '--config',
        help='config of mmdet or mmseg to fine-tune (default: a small Mask '
        'R-CNN or semantic FPN of a ResNet-18); of a probe, any whose '
        'model.backbone the starts are weights of (default: that of the first '
        'run)')
    parser.add_argument(
        '--classes', metavar='one|NUMBER',
        help='take all classes as one, or the most frequent ones alone')
    parser.add_argument(
        '--max-images', type=at_least(2),
        help='of each side, evenly spread (default of a probe: 500)')
    parser.add_argument(
        '--long-side', type=at_least(32), default=320,
        help='of a probe: images are resized to it (default: 320)')
    parser.add_argument(
        '--out', default='work_dirs/compare',
        help='folder of the pages, runs and splits (default: '
        'work_dirs/compare)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={},
        help='settings of each training, such as train_cfg.max_iters=1000')
    args = parser.parse_args()
    if args.classes not in (None, 'one') and not (
            args.classes.isdigit() and int(args.classes)):
        parser.error(f"--classes {args.classes!r}: expected 'one' or a number")
    if args.task == 'probe' and args.max_images is None:
        args.max_images = 500
    return args


class Comparison:
    """All cells of a comparison, in a folder.

    Args:
        args (argparse.Namespace): The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out = osp.abspath(args.out)
        self.starts = [find_start(text) for text in args.starts]
        names = [start.name for start in self.starts]
        if len({*names}) < len(names):
            raise UserError(f'--starts: two have the same name in {names}')
        self.against = args.against or self._usual()
        if self.against not in names:
            raise UserError(f'--against {self.against}: the starts are '
                            f'{", ".join(names)}')
        self.labels = sorted({*args.labels})
        self.data = LabelledData(args.data, args.images, args.classes,
                                 args.max_images, osp.join(self.out, 'splits'))
        self.data.write(sorted({*self.labels, WHOLE}), args.seeds)
        self.task = self._task()
        self.notes: list[str] = []
        for start in self.starts:
            print(f'{start.name}: {start.checkpoint or "random weights"}'
                  + (', a whole detector' if start.whole else ''), flush=True)
            note = self.task.check(start)
            if note:
                self.notes.append(note)

    def _usual(self) -> str:
        """The weights that one would use anyway."""
        for start in self.starts:
            if start.source and not start.config:
                return start.name
        return self.starts[0].name

    def _task(self) -> Any:
        args = self.args
        if args.task == 'probe':
            if args.cfg_options:
                raise UserError('--cfg-options are of trainings: a probe has '
                                'none')
            return Probes(find_backbone(self.starts, args.config), self.data,
                          args.long_side, osp.join(self.out, 'starts'))
        from compare_runs import Trainings
        return Trainings(
            load_config(args.config or _CONFIGS[args.task]), self.data,
            args.cfg_options, args.task == 'segmentation', self.out)

    def run(self) -> None:
        """Measure what is not measured yet, and write the pages."""
        cells: list[Cell] = []
        seeds = range(self.args.seeds)
        order = [
            # differences early; features of a start are computed once
            (start, share, seed) for seed in seeds for share in self.labels
            for start in self.starts
        ] if self.task.trained else [
            (start, share, seed) for start in self.starts for seed in seeds
            for share in self.labels
        ]
        written = 0.
        for start, share, seed in order:
            cell, done = self._cell(start, share, seed)
            cells.append(cell)
            print(f'[{len(cells)}/{len(order)}] {start.name}, {share:g} %, '
                  f'seed {seed}: ' + ', '.join(
                      f'{name} {value:.3f}'
                      for name, value in cell.scores.items())
                  + (' (done before)' if done else f', {cell.seconds:.0f} s'),
                  flush=True)
            if time.time() - written > _PAUSE or len(cells) == len(order):
                self.write(cells)
                written = time.time()

    def _cell(self, start: Start, share: float,
              seed: int) -> tuple[Cell, bool]:
        """One training or probe, and whether it was there already."""
        name = split_name(share, seed)
        if share == WHOLE:
            name += f'_s{seed}'
        folder = osp.join(self.out, self.args.task, start.name, name)
        path = f'{folder}.json'
        settings = dict(
            self.task.settings,
            weights=start.checkpoint and sha256(start.checkpoint),
            labels=sha256(self.data.split_json(share, seed)),
            val=sha256(self.data.val_json), seed=seed,
            options={key: str(value)
                     for key, value in self.args.cfg_options.items()})
        if osp.isfile(path):
            with open(path, encoding='utf-8') as file:
                known = json.load(file)
            if known['settings'] != settings:
                raise UserError(f'{path} is of other settings: give another '
                                '--out, or delete it')
            return Cell(start.name, share, seed, known['scores'],
                        known['seconds']), True
        clock = time.time()
        os.makedirs(osp.dirname(path), exist_ok=True)
        scores = self.task.score(start, share, seed, folder)
        seconds = time.time() - clock
        with written_aside(path) as aside, open(
                aside, 'w', encoding='utf-8') as file:
            json.dump(dict(settings=settings, scores=scores, seconds=seconds),
                      file, indent=1)
        return Cell(start.name, share, seed, scores, seconds), False

    def write(self, cells: list[Cell]) -> None:
        """Write results.json and the pages."""
        rows = rows_of(cells, self.against, self.task.trained)
        verdicts = sentences(rows, self.against)
        times = {
            start.name: sum(cell.seconds for cell in cells
                            if cell.start == start.name)
            for start in self.starts
        }
        content = dict(
            schema=1, task=self.args.task, against=self.against,
            seeds=self.args.seeds, images=self.data.sizes,
            scored_images=len(self.data.val['images']),
            starts={start.name: start.checkpoint for start in self.starts},
            cells=[cell._asdict() for cell in cells], rows=rows,
            verdicts=verdicts, seconds=times)
        with written_aside(osp.join(self.out, 'results.json')) as aside, open(
                aside, 'w', encoding='utf-8') as file:
            json.dump(content, file, indent=1, allow_nan=False)
        self.pages = write_comparison(
            ComparisonPage(
                title=f'Does it pay? {self.args.task}, against {self.against}',
                verdicts=verdicts or ['Nothing is compared: one start alone.'],
                rows=rows, against=self.against, times=[*times.items()],
                settings=self._settings(), notes=self._caveats(rows)),
            self.out)
        self.verdicts = verdicts

    def _settings(self) -> list[tuple[str, str]]:
        args = self.args
        sizes = ', '.join(
            f'{share:g} %: {self.data.sizes[split_name(share, 0)]}'
            for share in self.labels)
        return [
            ('task', args.task),
            ('data', ' '.join(args.data)),
            ('images to learn from', sizes),
            ('images to score on', str(len(self.data.val['images']))),
            ('classes', args.classes or str(len(self.data.class_names))),
            ('seeds', str(args.seeds)),
            ('config', args.config or _CONFIGS.get(args.task, 'that of a run '
                                                   'or file')),
            ('options', ' '.join(f'{key}={value}' for key, value
                                 in args.cfg_options.items()) or 'none'),
            *((f'start {start.name}', start.checkpoint or 'random weights')
              for start in self.starts)
        ]

    def _caveats(self, rows: list[dict]) -> list[str]:
        intervals = sum(row['difference'] is not None
                        and row['difference']['low'] is not None
                        for row in rows)
        found = [
            'The seeds draw the labels'
            + (' and what a training leaves to chance'
               if self.task.trained else '')
            + ', the same for all starts. The intervals cover that alone: not '
            'that pretraining again, or other pictures to score on, would '
            'give other numbers.',
            f'Of {intervals} intervals of 95 %, about {intervals / 20:.1f} '
            'would miss zero by chance if no start differed from another.',
            'The number of seeds that would tell 0.01 (one point) is for a '
            'paired t-test with a power of 0.8, by the spread of '
            f'{self.args.seeds} seeds; from so few it is a rough guess.'
        ]
        if not self.task.trained and WHOLE in self.labels:
            found.append(
                'With all labels, the probes of all seeds learn from the same '
                'images, so that there is no interval, and nothing is shown.')
        for side, name in enumerate(('learn from', 'score on')):
            used = len((self.data.train, self.data.val)[side]['images'])
            if used < self.data.found[side]:
                found.append(f'{used} of {self.data.found[side]} images to '
                             f'{name} were used (--max-images).')
        return found + self.notes


@reported()
def main() -> None:
    """Compare, and print the verdict."""
    args = parse_args()
    logging.disable(logging.INFO)  # each initial value of each network
    with loading_safely():
        comparison = Comparison(args)
        comparison.run()
    print('\n' + '\n'.join(comparison.verdicts))
    print(f'Wrote {" and ".join(comparison.pages)}')


if __name__ == '__main__':
    main()
