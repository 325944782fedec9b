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
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from continue_score import Protocol, Scores
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from cyborgs_plugin.arguments import at_least, share
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.image_io import IMG_EXTENSIONS, read_image
from cyborgs_plugin.engine.config_options import merge_options
from cyborgs_plugin.errors import MissingFileError, UserError, reported
from cyborgs_plugin.evaluation.paired import paired_difference
from cyborgs_plugin.files import written_aside
from cyborgs_plugin.safe_load import load_weights, tensors_of
from cyborgs_plugin.start_file import fit_names, read_start
from cyborgs_plugin.timm_cache import PREFIX, find_cached
from cyborgs_plugin.transfer.blending import blend, centre, recalibrated

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CONFIG = osp.join(ROOT, 'configs', 'cyborgs_continue_mobilenetv2.py')
_ENDINGS = ('.pth', '.pt', '.bin', '.ckpt', '.safetensors')
_MOVING = dict(
    _delete_=True, type='ForeachEMA', momentum=0.01)
_NO_ANCHOR = {'model.head.anchor_loss': None}
_MASKS = 'default_hooks.mask_update.source'
_SUPERPIXELS = osp.join(ROOT, 'configs', '_base_', 'masks', 'superpixels.py')


def _views(place: str, value: Any) -> dict[str, Any]:
    """Change a setting of a transform in both views' pipelines."""
    views = 'train_dataloader.dataset.pipeline.1.transforms'
    return {f'{views}.{view}.{place}': value for view in range(2)}


_NUMBERED = {'layer-decay', 'frozen-stem'}
"""Methods that know the stages of MobileNetV2 alone."""
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
    'heads-first': {  # the backbone stands still for the first tenth
        'custom_hooks': [dict(type='DriftHook'), dict(type='HeadsFirstHook')]
    },
    'layer-decay': {  # the rate falls with depth, as in configs/ablations
        'optim_wrapper.paramwise_cfg.custom_keys': dict(
            _delete_=True,
            **{
                'backbone': dict(lr_mult=0.0125),  # to stride 4
                'backbone.layer3': dict(lr_mult=0.025),
                'backbone.layer4': dict(lr_mult=0.05),
                'backbone.layer5': dict(lr_mult=0.05),
                'backbone.layer6': dict(lr_mult=0.1),
                'backbone.layer7': dict(lr_mult=0.1)
            })
    },
    # The stem and the stage of stride 4.
    'frozen-stem': {'model.backbone': dict(frozen_stages=2)},
    'superpixels': {  # clusters of superpixels in place of cells
        _MASKS: dict(
            Config.fromfile(_SUPERPIXELS).superpixel_masks.to_dict(),
            plain_weight=0)
    },
    'felzenszwalb': {  # masks without a network, as DetCon
        _MASKS: dict(
            _delete_=True, type='FelzenszwalbMasks', scale=500, min_size=250)
    },
    'annotated': {  # the ground truth; for --pictures annotated
        _MASKS: dict(
            _delete_=True,
            type='AnnotatedMasks',
            ann_file='annotations/instances_train2017.json',
            key_prefix='train2017/')
    },
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0])
    parser.add_argument(
        '--start',
        required=True,
        help='weights to start from: a file whose tensors match the backbone '
        'by name or by order, or timm:NAME for weights that timm has on this '
        'machine')
    parser.add_argument(
        '--data-root', required=True, help='data laid out like COCO')
    parser.add_argument(
        '--config', default=CONFIG, help='recipe (default: %(default)s)')
    parser.add_argument(
        '--methods', nargs='+', choices=METHODS, default=[*METHODS][:4],
        metavar='METHOD',
        help=f'changes of the recipe to compare: {", ".join(METHODS)} '
        f'(default: {" ".join([*METHODS][:4])})')
    parser.add_argument(
        '--seeds', type=at_least(1), default=1,
        help='training runs per method (default: 1)')
    parser.add_argument(
        '--epochs', type=at_least(1),
        help="of each run (default: the recipe's)")
    parser.add_argument(
        '--pictures', choices=['all', 'annotated'], default='all',
        help='annotated: train only on images of train2017 that have '
        'annotations, which the method of this name requires (default: all)')
    parser.add_argument(
        '--splits',
        type=at_least(1),
        default=3,
        help='of the images that fit the probes (default: 3)')
    parser.add_argument(
        '--labels', type=float, nargs='+', default=[0.8],
        help='shares of these images in each split; one row per share '
        '(default: 0.8)')
    parser.add_argument(
        '--score-on', choices=['val', 'train'], default='val',
        help='train: score on images of train2017 that no split learns from '
        '(default: val)')
    parser.add_argument(
        '--blend', type=share, nargs='+', default=[],
        help='also score the average of start and end, with this weight of '
        'the end')
    parser.add_argument(
        '--recalibrate', action='store_true',
        help='also score the end with batch norms recomputed on plain '
        'pictures')
    parser.add_argument(
        '--masks', type=int, nargs='*', default=[],
        help='also score masks with this many regions per image')
    parser.add_argument(
        '--max-eval-images', type=at_least(1),
        help='on each side of the probes (default: all)')
    parser.add_argument(
        '--work-dir', default='work_dirs/continue_from',
        help='folder of runs and scores (default: %(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={},
        metavar='KEY=VALUE', help='further settings of every run')
    return parser.parse_args()


class Benchmark:
    """Trainings from one start, and their scores.

    Args:
        args (argparse.Namespace): The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        if 'annotated' in args.methods and args.pictures != 'annotated':
            raise UserError(
                'The method annotated has masks of annotated pictures alone: '
                'give --pictures annotated, so that all methods train on '
                'these')
        kind = load_config(args.config).model.backbone.type
        numbered = sorted({*args.methods} & _NUMBERED)
        if numbered and not kind.endswith('MobileNetV2'):
            raise UserError(
                f'--methods {" ".join(numbered)} name the stages of a '
                f'MobileNetV2, but {args.config} has a {kind}: give a config '
                'with its stages instead, such as ablations/continue_'
                f'{numbered[0]}.py has those of a ResNet')
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
        if path.startswith(PREFIX) or not (osp.isfile(path) or
                                           osp.splitext(path)[1] in _ENDINGS):
            path = find_cached(path)
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
        if self.args.pictures == 'annotated':
            known = {
                f'train2017/{name}' for name in self.scores.annotated('train')
            }
            names = [name for name in names if name['file_name'] in known]
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
        checkpoint = load_weights(last, log=True)
        state = tensors_of(checkpoint, last)
        with written_aside(result) as aside:
            torch.save(
                dict(
                    state_dict={
                        key[len('backbone.'):]: value
                        for key, value in state.items()
                        if key.startswith('backbone.')
                    },
                    # {} where the recipe has no DriftHook
                    drift=checkpoint['message_hub']['runtime_info'].get(
                        'drift', {})), aside)
        return result

    def recalibrated(self, file: str) -> str:
        """Write a backbone with batch norms recomputed beside it.

        They are those of 512 pictures at most, as by publish_backbone.py.
        """
        with open(self.images, encoding='utf-8') as opened:
            names = [one['file_name'] for one in json.load(opened)['images']]
        order = np.random.default_rng(0).permutation(len(names))[:512]
        pictures = [
            centre(read_image(osp.join(self.root, names[index])))
            for index in order
        ]
        tensors, _ = recalibrated(
            tensors_of(load_weights(file), file), self.cfg, pictures, file)
        path = f'{osp.splitext(file)[0]}@norms.pth'
        with written_aside(path) as aside:
            torch.save(dict(state_dict=tensors), aside)
        return path

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
        source = cfg.default_hooks.mask_update.source
        if source.type == 'AnnotatedMasks':
            source.ann_file = osp.join(self.root, source.ann_file)
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
                            'why. The same command resumes here')


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


def differences(bench: Benchmark,
                files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a method changes, over all seeds and splits.

    Args:
        bench (Benchmark): The trainings.
        files (Sequence[str]): A backbone of each seed.

    Returns:
        dict[str, dict[str, Any]]: See :func:`paired_difference`, for each
        share of the labels, and for the masks.
    """
    end = [bench.scores.of(file) for file in files]
    return {
        kind: paired_difference(
            scores * len(end), [one for run in end for one in run[kind]])
        for kind, scores in bench.scores.of(bench.start).items()
    }


def mean_drift(files: Sequence[str]) -> str:
    """How far trainings went from the start, as DriftHook measured it.

    Args:
        files (Sequence[str]): A backbone of each seed.

    Returns:
        str: The mean of ``drift`` at the end, and of the variance that is
        ``recovered``.
    """
    found = [load_weights(file)['drift'] for file in files]
    return ' | '.join(
        f'{sum(one[name] for one in found) / len(found):.{digits}f}'
        if all(found) else ''
        for name, digits in (('drift', 3), ('recovered', 2)))


def _table(kind: str, rows: dict[str, dict[str, Any]],
           start: list[dict[str, float]], drifts: dict[str, str],
           alone: bool) -> str:
    """Print the differences of each method from the start."""
    names = [*start[0]]
    title = 'method' if alone or kind == 'masks' else (
        f'method, {float(kind):.0%} of the labels')
    lines = [f'| {title} | ' + ' | '.join(names) + ' | drift | recovered |',
             '|---' * (len(names) + 3) + '|']
    lines.append('| start | ' + ' | '.join(
        f'{sum(score[name] for score in start) / len(start):.3f}'
        for name in names) + ' | 0 | 1 |')
    for row, found in rows.items():
        lines.append(f'| {row} | ' + ' | '.join(
            f'{found[kind][name][0]:+.4f} ± {found[kind][name][1]:.4f}'
            for name in names) + f' | {drifts.get(row, " | ")} |')
    return '\n'.join(lines)


@reported()
def main() -> None:
    """Train, score, and print the differences from the start."""
    args = parse_args()
    bench = Benchmark(args)
    start = bench.scores.of(bench.start)
    rows: dict[str, dict[str, Any]] = {}
    drifts: dict[str, str] = {}
    for method in args.methods:
        clock = time.time()
        files = [bench.train(method, seed) for seed in range(args.seeds)]
        rows[method] = differences(bench, files)
        drifts[method] = mean_drift(files)
        for part in args.blend:
            rows[f'{method}, blended {part:g}'] = differences(
                bench, [average(bench.start, file, part) for file in files])
        if args.recalibrate:
            rows[f'{method}, norms recomputed'] = differences(
                bench, [bench.recalibrated(file) for file in files])
        print(f'{method}: {time.time() - clock:.0f} s', flush=True)
    for kind, scores in start.items():
        print('\n' + _table(kind, rows, scores, drifts,
                            len(args.labels) == 1))
    print(f'\nDifferences from the start, ± standard error over {args.seeds} '
          f'seeds and {args.splits} splits each (masks: seeds). Drift, and '
          "the start's variance that is recovered: as DriftHook's. "
          f'Backbones: {bench.work}')


if __name__ == '__main__':
    main()
