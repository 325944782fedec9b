r"""Do weights that are good already get better on one's own photographs?

Run: python tools/benchmarks/continue_from.py --start FILE \
         --data-root data/coco_mini [--methods kept anchored] [--seeds 3]

Trains each method from the start, scores the start and the end on the same
frozen probes and splits, and prints the paired differences. The pictures of
train2017 and unlabeled2017 are trained on without labels; train2017's labels
fit the probes, val2017's score them. To choose between methods, ask for
`--score-on train`: it holds out a part of train2017 and leaves val2017 alone.
"""
import argparse
import json
import os
import os.path as osp
import subprocess
import sys
import time
from typing import Any

import torch
from continue_score import Protocol, Scores
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from cyborgs_plugin.commands import at_least
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.image_io import IMG_EXTENSIONS
from cyborgs_plugin.engine.config_options import merge_options
from cyborgs_plugin.errors import MissingFileError, UserError, reported
from cyborgs_plugin.evaluation.paired import paired_difference
from cyborgs_plugin.files import written_aside
from cyborgs_plugin.safe_load import load_weights, tensors_of
from cyborgs_plugin.start_file import fit_names, read_start
from cyborgs_plugin.transfer.blending import blend

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CONFIG = osp.join(ROOT, 'configs', 'cyborgs_continue_mobilenetv2.py')
_MOVING = dict(
    _delete_=True, type='ForeachEMA', momentum=0.01)
_NO_ANCHOR = {'model.head.anchor_loss': None}
_MASKS = 'default_hooks.mask_update.source'


def _views(place: str, value: Any) -> dict[str, Any]:
    """Change a setting of a transform in both views' pipelines."""
    views = 'train_dataloader.dataset.pipeline.1.transforms'
    return {f'{views}.{view}.{place}': value for view in range(2)}


# What each changes in the recipe, which is `anchored`.
METHODS: dict[str, dict[str, Any]] = {
    'continue': {  # the recipe from scratch, the backbone at a tenth
        'model.target_ema': _MOVING,
        'model.backbone.norm_eval': False,
        **_NO_ANCHOR
    },
    'kept': {  # batch norms kept
        'model.target_ema': _MOVING,
        **_NO_ANCHOR
    },
    'distill': _NO_ANCHOR,  # and the start as the target
    'anchored': {},  # and features held near
    # variants of `distill`
    'mild': {  # less jitter and grey, no solarisation
        **_NO_ANCHOR,
        **_views('2.prob', 0.4),
        **_views('3.prob', 0.05), 'train_dataloader.dataset.pipeline.1.'
        'transforms.1.5.prob': 0.
    },
    'large': {  # the size that such weights know
        **_NO_ANCHOR,
        **_views('0.scale', 160)
    },
    'crops': {  # objects in the size that they have in the picture
        **_NO_ANCHOR,
        **_views('0.crop_ratio_range', (0.1, 0.5))
    },
    # variants of `anchored`
    'larger': _views('0.scale', 128),
    'felzenszwalb': {  # masks without a network, as DetCon
        _MASKS: dict(
            _delete_=True, type='FelzenszwalbMasks', scale=500, min_size=250)
    },
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0])
    parser.add_argument(
        '--start',
        required=True,
        help='weights of the backbone, by name or in its order, as those of '
        'MobileNetV2 elsewhere are')
    parser.add_argument('--data-root', required=True)
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument(
        '--methods', nargs='+', choices=METHODS, default=[*METHODS][:4])
    parser.add_argument('--seeds', type=at_least(1), default=1)
    parser.add_argument(
        '--epochs', type=at_least(1), help='instead of the recipe')
    parser.add_argument(
        '--splits',
        type=at_least(1),
        default=3,
        help='of the images that fit probes')
    parser.add_argument(
        '--labels', type=float, nargs='+', default=[0.8],
        help='shares of these images in each split, a row each')
    parser.add_argument(
        '--score-on', choices=['val', 'train'], default='val',
        help='train: on the images of train2017 that no split learns from')
    parser.add_argument(
        '--blend', type=float, nargs='+', default=[],
        help='score the start and the end averaged too, with this part of '
        'the end')
    parser.add_argument(
        '--masks', type=int, nargs='*', default=[],
        help='score the masks of this many regions per image too')
    parser.add_argument('--max-eval-images', type=at_least(1))
    parser.add_argument('--work-dir', default='work_dirs/continue_from')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args()


class Benchmark:
    """Trainings from one start, and their scores.

    Args:
        args (argparse.Namespace): The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.root = osp.abspath(args.data_root)
        self.work = osp.abspath(args.work_dir)
        os.makedirs(self.work, exist_ok=True)
        self.cfg = load_config(args.config)
        init_default_scope('mmpretrain')
        self.scores = Scores(
            self.root, self.cfg,
            Protocol(args.splits, args.labels, args.score_on, args.masks,
                     args.max_eval_images))
        self.start = self._convert(args.start)
        self.images = self._listing()

    def _convert(self, path: str) -> str:
        """The start with the names of our backbone."""
        found, _ = fit_names(
            read_start(path),
            self.scores.backbone().state_dict(), path)
        path = osp.join(self.work, 'start.pth')
        torch.save(dict(state_dict=found), path)
        return path

    def _listing(self) -> str:
        """A json of the pictures to train on."""
        names = [
            dict(file_name=f'{folder}/{name}')
            for folder in ('train2017', 'unlabeled2017')
            if osp.isdir(osp.join(self.root, folder))
            for name in sorted(os.listdir(osp.join(self.root, folder)))
            if name.lower().endswith(IMG_EXTENSIONS)
        ]
        if not names:
            raise MissingFileError(
                f'{self.root} has no pictures in train2017/ or '
                'unlabeled2017/: --data-root must be laid out as COCO')
        path = osp.join(self.work, 'images.json')
        with written_aside(path) as aside, open(aside, 'w') as file:
            json.dump(dict(images=names), file)
        return path

    def train(self, method: str, seed: int) -> str:
        """Train once, and give the file of the backbone.

        Raises:
            UserError: If it fails, or the folder holds one of other settings.
        """
        name = f'{method}_s{seed}'
        result, config, folder = (
            osp.join(self.work, name + end) for end in ('.pth', '.py', ''))
        cfg = self._config(METHODS[method], seed)
        cfg.train_dataloader.dataset.mask_bank = self._masks(method)
        text = cfg.dump()
        if osp.isfile(config):
            with open(config, encoding='utf-8') as file:
                if file.read() != text:
                    raise UserError(
                        f'{config} is of a run with other settings: give '
                        'another --work-dir, or delete that folder')
        if osp.isfile(result):
            return result
        with written_aside(config) as aside, open(
                aside, 'w', encoding='utf-8') as file:
            file.write(text)
        self._run(name, 'train.py', config, '--work-dir', folder, '--resume')
        last = osp.join(folder, f'epoch_{cfg.train_cfg.max_epochs}.pth')
        state = tensors_of(load_weights(last, log=True), last)
        with written_aside(result) as aside:
            torch.save(
                dict(state_dict={
                    key[len('backbone.'):]: value
                    for key, value in state.items()
                    if key.startswith('backbone.')
                }), aside)
        return result

    def _config(self, changes: dict[str, Any], seed: int) -> Config:
        """The recipe on these pictures, with the changes of a method."""
        cfg = self.cfg.copy()
        cfg.merge_from_dict({
            **changes, 'randomness.seed': seed,
            'train_dataloader.dataset.data_root': self.root,
            'train_dataloader.dataset.data_prefix.img_path': '',
            'train_dataloader.dataset.ann_file': self.images,
            'model.backbone.init_cfg.checkpoint': self.start
        })
        merge_options(cfg, self.args.cfg_options, work_dir=self.work)
        if self.args.epochs:
            cfg.train_cfg.max_epochs = self.args.epochs
        return cfg

    def _masks(self, method: str) -> str:
        """The mask round that a method trains with, made once.

        Methods share it unless they change the source of masks.
        """
        changes = {
            key: value
            for key, value in METHODS[method].items() if key.startswith(_MASKS)
        }
        name = f'masks_{method}' if changes else 'masks'
        masks = osp.join(self.work, name)
        if not osp.isdir(osp.join(masks, 'round_0000')):
            config = osp.join(self.work, f'{name}.py')
            self._config(changes, 0).dump(config)
            self._run(name, 'generate_masks.py', config, '--work-dir',
                      osp.join(self.work, f'{name}_log'), '--out-dir', masks)
        return masks

    def _run(self, name: str, tool: str, *arguments: str) -> None:
        """Run a tool in another process, with a log."""
        log = osp.join(self.work, f'{name}.log')
        with open(log, 'a', encoding='utf-8') as file:
            code = subprocess.run(
                [sys.executable, osp.join(ROOT, 'tools', tool), *arguments],
                stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if code:
            raise UserError(f'{name} failed with exit code {code}: {log} says '
                            'why. The same command goes on from here')


def average(start: str, end: str, share: float) -> str:
    """Write the average of two backbones beside the second one.

    Args:
        start (str): Weights of the start.
        end (str): Weights of the end.
        share (float): Of the end, 0 to 1.
    """
    first, last = (tensors_of(load_weights(file), file)
                   for file in (start, end))
    tensors = blend(first, last, share, start)
    path = f'{osp.splitext(end)[0]}@{share:g}.pth'
    with written_aside(path) as aside:
        torch.save(dict(state_dict=tensors), aside)
    return path


def differences(bench: Benchmark, method: str,
                part: float | None = None) -> dict[str, dict[str, Any]]:
    """What a method changes, over all seeds and splits.

    Args:
        bench (Benchmark): The trainings.
        method (str): Its name.
        part (float, optional): Of the end, in the average with the start.
            Defaults to None, the end itself.

    Returns:
        dict[str, dict[str, Any]]: See :func:`paired_difference`, for each
        share of the labels, and for the masks.
    """
    start = bench.scores.of(bench.start)
    end = []
    for seed in range(bench.args.seeds):
        file = bench.train(method, seed)
        end.append(
            bench.scores.of(
                file if part is None else average(bench.start, file, part)))
    return {
        kind: paired_difference(
            scores * len(end), [one for run in end for one in run[kind]])
        for kind, scores in start.items()
    }


def _table(kind: str, rows: dict[str, dict[str, Any]],
           start: list[dict[str, float]], alone: bool) -> str:
    """Print the differences of each method from the start."""
    names = [*start[0]]
    title = 'method' if alone or kind == 'masks' else (
        f'method, {float(kind):.0%} of the labels')
    lines = [f'| {title} | ' + ' | '.join(names) + ' |',
             '|---' * (len(names) + 1) + '|']
    lines.append('| start | ' + ' | '.join(
        f'{sum(score[name] for score in start) / len(start):.3f}'
        for name in names) + ' |')
    for row, found in rows.items():
        lines.append(f'| {row} | ' + ' | '.join(
            f'{found[kind][name][0]:+.4f} ± {found[kind][name][1]:.4f}'
            for name in names) + ' |')
    return '\n'.join(lines)


@reported()
def main() -> None:
    """Train, score, and print the differences from the start."""
    args = parse_args()
    bench = Benchmark(args)
    start = bench.scores.of(bench.start)
    rows: dict[str, dict[str, Any]] = {}
    for method in args.methods:
        clock = time.time()
        rows[method] = differences(bench, method)
        for part in args.blend:
            rows[f'{method}, blended {part:g}'] = differences(
                bench, method, part)
        print(f'{method}: {time.time() - clock:.0f} s', flush=True)
    for kind, scores in start.items():
        print('\n' + _table(kind, rows, scores, len(args.labels) == 1))
    print(f'\nDifferences from the start, ± standard error over {args.seeds} '
          f'seeds and {args.splits} splits each (masks: seeds). '
          f'Backbones: {bench.work}')


if __name__ == '__main__':
    main()
