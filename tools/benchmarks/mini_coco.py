r"""CYBORGS and its baselines on one budget, then frozen probes of all.

Run: python tools/benchmarks/mini_coco.py --budget full \
         --data-root ../shared/data/coco_mini
     python tools/benchmarks/mini_coco.py --data-root data/coco --gpus 8 \
         --depth 50 --view-size 224 --grid-stride 32 --batch-size 128 \
         --steps 90000 --pretrain-on train2017 --max-eval-images 2000

Finished runs are not repeated: interrupt it and call it again.
"""
import argparse
import datetime
import hashlib
import json
import os
import os.path as osp
import platform
import signal
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import mini_coco_report as report
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import MODELS, TASK_UTILS

import cyborgs_plugin
from cyborgs_plugin.datasets import read_image
from cyborgs_plugin.datasets.image_io import IMG_EXTENSIONS
from cyborgs_plugin.evaluation import CocoTruth, MaskQuality, color_kmeans
from cyborgs_plugin.evaluation.probes import (
    FrozenFeatures,
    ProbeImages,
    run_probes,
)
from cyborgs_plugin.segmentation import NetworkMasks

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CONFIG = osp.join(ROOT, 'configs', 'baselines', '{}_r18_coco-mini.py')
class Budget(NamedTuple):
    """What a run may cost, and how finely it is looked at."""

    steps: int
    phases: int
    """Equal parts of a run; CYBORGS renews its masks between them."""
    view_size: int
    batch_size: int
    seeds: Dict[str, Tuple[int, ...]]
    max_images: Optional[int]
    max_eval_images: Optional[int]
    long_side: Optional[int]
    ks: Tuple[int, ...]

    def is_probed(self, phase: int) -> bool:
        """Whether all probes are run after a phase: after each third."""
        return 3 * phase % self.phases == 0


METHODS = ('cyborgs', 'detcon-fh', 'byol', 'densecl', 'cyborgs-oracle',
           'cyborgs-annotated')
BUDGETS = dict(
    full=Budget(
        steps=819,
        phases=3,
        view_size=96,
        batch_size=32,
        seeds={
            **{method: (0, ) for method in METHODS},
            **dict.fromkeys(('random', 'cyborgs', 'detcon-fh', 'byol'),
                            (0, 1))
        },
        max_images=None,
        max_eval_images=None,
        long_side=None,
        ks=(5, 8, 16, 32)),
    smoke=Budget(
        steps=12,
        phases=2,
        view_size=64,
        batch_size=8,
        seeds={method: (0, ) for method in ('random', *METHODS)},
        max_images=48,
        max_eval_images=24,
        long_side=160,
        ks=(5, 8)))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--data-root', required=True, help='laid out as COCO')
    parser.add_argument('--budget', choices=BUDGETS, default='smoke')
    parser.add_argument('--work-dir', default='work_dirs/mini_coco_{budget}')
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=('random', *METHODS),
        help='by default all')
    parser.add_argument(
        '--seeds',
        nargs='+',
        type=int,
        help="of every method; the budget's by default")
    parser.add_argument(
        '--pretrain-on',
        nargs='+',
        help='folders; by default train2017 and, if there, unlabeled2017')
    parser.add_argument('--depth', type=int, choices=(18, 50), default=18)
    parser.add_argument('--grid-stride', type=int, default=16)
    parser.add_argument('--steps', type=int, help="the budget's by default")
    parser.add_argument(
        '--phases', type=int, help='parts of a run, with a mask round each')
    parser.add_argument('--view-size', type=int)
    parser.add_argument('--batch-size', type=int, help='of all GPUs together')
    parser.add_argument('--max-eval-images', type=int)
    parser.add_argument(
        '--gpus', type=int, default=1, help='processes of a training run')
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


class Benchmark:
    """One budget on one data set.

    Args:
        args (argparse.Namespace): The command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.root = osp.abspath(args.data_root)
        budget = BUDGETS[args.budget]
        changed = {
            name: getattr(args, name)
            for name in ('steps', 'phases', 'view_size', 'batch_size',
                         'max_eval_images') if getattr(args, name)
        }
        self.budget = budget._replace(**changed)
        self.work = osp.abspath(args.work_dir.format(budget=args.budget))
        os.makedirs(osp.join(self.work, 'configs'), exist_ok=True)
        self.truth = {split: self._truth(split) for split in ('train', 'val')}
        self.panoptic = {
            split: self._panoptic(split) for split in ('train', 'val')
        }
        self.images = self._pretraining_images()
        annotated = set(self.truth['train'].names)
        self.annotated = [
            name for name in self.images
            if name.startswith('train2017/') and name[10:] in annotated
        ]
        self.metric = MaskQuality(
            self._ann('instances', 'val'),
            key_prefix='val2017/',
            panoptic_file=self.panoptic['val'],
            max_images=self.budget.max_eval_images)

    def _ann(self, kind: str, split: str) -> str:
        return osp.join(self.root, 'annotations', f'{kind}_{split}2017.json')

    def _truth(self, split: str) -> CocoTruth:
        path = self._ann('instances', split)
        if not osp.isfile(path):
            raise SystemExit(
                f'{path} is missing: --data-root must be laid out as COCO '
                '(train2017/, val2017/, annotations/). Without real images: '
                'python tools/dataset_converters/make_toy_scenes.py, then '
                '--data-root data/toy_scenes')
        return CocoTruth(path)

    def _panoptic(self, split: str) -> Optional[str]:
        path = self._ann('panoptic', split)
        return path if osp.isfile(path) else None

    def _pretraining_images(self) -> List[str]:
        folders = self.args.pretrain_on or [
            folder for folder in ('train2017', 'unlabeled2017')
            if osp.isdir(osp.join(self.root, folder))
        ]
        names = [
            f'{folder}/{name}' for folder in folders
            for name in sorted(os.listdir(osp.join(self.root, folder)))
            if name.lower().endswith(IMG_EXTENSIONS)
        ]
        if self.budget.max_images is not None:
            names = names[:self.budget.max_images]
        if len(names) < self.budget.batch_size:
            raise SystemExit(
                f'{len(names)} images in {folders} of {self.root} are less '
                f'than a batch of {self.budget.batch_size}')
        return names

    def runs(self) -> List[Tuple[str, int]]:
        """Method and seed of each run."""
        chosen = list(self.args.methods or ('random', *METHODS))
        if (len(self.annotated) == len(self.images)
                and 'cyborgs-annotated' in chosen):
            chosen.remove('cyborgs-annotated')  # it would equal cyborgs
        return [(method, seed) for method in chosen
                for seed in self.args.seeds or self.budget.seeds[method]]

    def config(self, method: str, seed: int) -> Config:
        """The config of a run: only data, budget and seed differ."""
        only_annotated = method in ('cyborgs-oracle', 'cyborgs-annotated')
        images = self.annotated if only_annotated else self.images
        cfg = Config.fromfile(
            CONFIG.format(method.replace('cyborgs-annotated', 'cyborgs')))
        budget = self.budget
        per_process = budget.batch_size // self.args.gpus
        iters = len(images) // (per_process * self.args.gpus)
        phase = max(1, round(budget.steps / budget.phases / iters))
        epochs = phase * budget.phases
        listing = self._listing(
            'annotated' if only_annotated else 'all', images)
        data = cfg.train_dataloader.dataset
        data.data_root = self.root
        if data.type == 'CustomDataset':
            data.update(ann_file=listing + '.txt', data_prefix='')
        else:
            data.update(
                ann_file=listing + '.json', data_prefix=dict(img_path=''))
        for view in data.pipeline[1].transforms:
            view[0].scale = budget.view_size
        cfg.train_dataloader.batch_size = per_process
        cfg.train_cfg.max_epochs = epochs
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = max(
            1, epochs // 9)
        cfg.param_scheduler[1].end = epochs
        cfg.default_hooks.checkpoint.update(interval=phase, max_keep_ckpts=-1)
        cfg.randomness = dict(seed=seed)
        for hook in cfg.get('custom_hooks', []):
            if hook.type == 'DenseCLHook':
                hook.start_iters = epochs * iters // 10
        if 'queue_len' in cfg.model:
            # less than an epoch, and a multiple of the batch
            cfg.model.queue_len = budget.batch_size * max(
                1, min(65536, int(0.7 * len(images))) // budget.batch_size)
        update = cfg.default_hooks.get('mask_update')
        if update:
            if update.interval > 0:
                update.interval = phase
                update.evaluator = dict(
                    type='MaskQuality',
                    ann_file=self._ann('instances', 'train'),
                    key_prefix='train2017/',
                    max_images=500)
            if 'ann_file' in update.source:
                update.source.ann_file = self._ann('instances', 'train')
            if self.args.amp and update.source.type == 'NetworkMasks':
                update.source.dtype = 'bfloat16'
            cfg.model.neck.grid_stride = self.args.grid_stride
        if self.args.depth == 50:
            _widen(cfg)
        cfg.merge_from_dict(self.args.cfg_options)
        return cfg

    def _listing(self, name: str, images: List[str]) -> str:
        """Write which images to train on, for both kinds of data set."""
        path = osp.join(self.work, f'images_{name}')
        with open(path + '.txt', 'w', encoding='utf-8') as file:
            file.write('\n'.join(images))
        with open(path + '.json', 'w', encoding='utf-8') as file:
            json.dump(dict(images=[dict(file_name=i) for i in images]), file)
        return path

    def train(self, method: str, seed: int) -> Dict[str, Any]:
        """Train a run unless it is done; keep the backbones of its phases.

        Returns:
            Dict[str, Any]: ``folder``, ``phases`` (files of the backbones,
            in order), ``epochs``, ``steps`` and ``seconds``.
        """
        name = f'{method}_s{seed}'
        folder = osp.join(self.work, name)
        cfg = self.config('cyborgs' if method == 'random' else method, seed)
        text = cfg.dump()
        settings = text + str(self.images) + str(self.args.amp)
        signature = hashlib.sha256(settings.encode()).hexdigest()
        done = _read(osp.join(folder, 'done.json'))
        if done is None:
            os.makedirs(folder, exist_ok=True)
            started = _read(osp.join(folder, 'started.json'))
            if started is None:
                _write(osp.join(folder, 'started.json'),
                       dict(signature=signature))
        for state in (done, _read(osp.join(folder, 'started.json'))):
            if state is not None and state['signature'] != signature:
                raise SystemExit(
                    f'{folder} holds a run with other settings or images: '
                    'give another --work-dir, or delete that folder')
        if done is not None:
            print(f'[{name}] done before', flush=True)
            return done
        epochs = cfg.train_cfg.max_epochs
        phase = cfg.default_hooks.checkpoint.interval
        start = time.time()
        if method == 'random':
            init_default_scope('mmpretrain')
            set_random_seed(seed)
            network = MODELS.build(cfg.model.backbone)
            network.init_weights()
            saved = [(0, {
                'backbone.' + key: value
                for key, value in network.state_dict().items()
            })]
            epochs = 0
        else:
            config = osp.join(self.work, 'configs', f'{name}.py')
            with open(config, 'w', encoding='utf-8') as file:
                file.write(text)
            self._launch(name, config, folder)
            saved = []
            for epoch in range(phase, epochs + 1, phase):
                state = torch.load(
                    osp.join(folder, f'epoch_{epoch}.pth'),
                    map_location='cpu',
                    weights_only=False)['state_dict']
                saved.append((epoch, {
                    key: value for key, value in state.items()
                    if key.startswith('backbone.')
                }))
        phases = []
        for epoch, state in saved:
            phases.append(osp.join(folder, f'backbone_{epoch}.pth'))
            # as publish_backbone.py, and so transfer.sh, take it
            meta = dict(epoch=epoch, seed=seed, cfg=text)
            torch.save(dict(state_dict=state, meta=meta), phases[-1])
        iters = len(
            self.annotated if method in ('cyborgs-oracle', 'cyborgs-annotated')
            else self.images) // self.budget.batch_size
        done = dict(
            signature=signature,
            folder=folder,
            phases=phases,
            epochs=[epoch for epoch, _ in saved],
            steps=[epoch * iters for epoch, _ in saved],
            seconds=time.time() - start)
        _write(osp.join(folder, 'done.json'), done)
        for epoch, _ in saved:  # optimiser and target are not needed again
            path = osp.join(folder, f'epoch_{epoch}.pth')
            if osp.isfile(path):
                os.remove(path)
        return done

    def _launch(self, name: str, config: str, folder: str) -> None:
        tools = osp.join(ROOT, 'tools')
        command = [sys.executable, osp.join(tools, 'train.py'), config]
        if self.args.gpus > 1:
            command = ['bash', osp.join(tools, 'dist_train.sh'), config,
                       str(self.args.gpus)]
        command += ['--work-dir', folder, '--resume']
        if self.args.amp:
            command.append('--amp')
        log = osp.join(folder, 'train.log')
        print(f'[{name}] {" ".join(command)}\n[{name}] log: {log}',
              flush=True)
        with open(log, 'a', encoding='utf-8') as file:
            code = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT,
                cwd=ROOT, check=False).returncode
        if code:
            with open(log, encoding='utf-8') as file:
                tail = ''.join(file.readlines()[-15:])
            raise SystemExit(f'{tail}\n[{name}] failed with exit code {code}; '
                             f'the whole log: {log}. After mending, the same '
                             'command goes on from here')

    def judge(self, method: str, seed: int,
              run: Dict[str, Any]) -> Dict[str, Any]:
        """Score the backbones of a run: masks of each, probes of some."""
        path = osp.join(run['folder'], 'scores.json')
        source = self.config('cyborgs', 0).default_hooks.mask_update.source
        settings = [self.budget.max_eval_images, self.budget.long_side,
                    list(self.budget.ks), self.args.grid_stride, str(source)]
        scores = _read(path) or dict(settings=settings, points={})
        if scores['settings'] != settings:
            scores = dict(settings=settings, points={})
        cfg = self.config('cyborgs' if method == 'random' else method, seed)
        for number, (file, epoch) in enumerate(
                zip(run['phases'], run['epochs']), 1):
            point = scores['points'].setdefault(str(epoch), {})
            wanted = [] if 'masks' in point else ['masks']
            if 'regions' not in point and (self.budget.is_probed(number)
                                           or epoch == 0):
                wanted.append('probes')
            if not wanted:
                continue
            start = time.time()
            backbone = _backbone(cfg, file)
            if 'masks' in wanted:
                point['masks'] = self.mask_scores(
                    self.network_maps(cfg, backbone))
            if 'probes' in wanted:
                point.update(self.probe_scores(cfg, backbone))
            point['seconds'] = time.time() - start
            _write(path, scores)
            print(f'[{method}_s{seed}] epoch {epoch}: '
                  f'{report.one_line(point)}, {point["seconds"]:.0f} s',
                  flush=True)
        return scores['points']

    def probe_scores(self, cfg: Config,
                     backbone: torch.nn.Module) -> Dict[str, Any]:
        """Run the frozen probes."""
        features = FrozenFeatures(
            backbone,
            **_normalisation(cfg),
            grid_stride=self.args.grid_stride,
            long_side=self.budget.long_side)
        sides = []
        for split in ('train', 'val'):
            scenes = truth = self.truth[split]
            if self.panoptic['train'] and self.panoptic['val']:
                scenes = CocoTruth(truth.ann_file, self.panoptic[split])
            sides.append(
                ProbeImages(osp.join(self.root, f'{split}2017'), truth,
                            scenes))
        return run_probes(
            features, *sides, max_images=self.budget.max_eval_images)

    def network_maps(self, cfg: Config, backbone: torch.nn.Module
                     ) -> Dict[int, Dict[str, np.ndarray]]:
        """Cluster the features of each val image by itself, for each K."""
        sources = {k: self._source(cfg, backbone, k) for k in self.budget.ks}
        maps: Dict[int, Dict[str, np.ndarray]] = {k: {} for k in sources}
        for key, image in self._val_images():
            features = next(iter(sources.values())).features([image])
            for k, source in sources.items():
                maps[k][key] = source.cluster([*features], [key], (0, k))[0]
        return maps

    def _source(self, cfg: Config, backbone: torch.nn.Module,
                k: int) -> NetworkMasks:
        """What CYBORGS makes its rounds with, for any method and this K."""
        update = self.config('cyborgs', 0).default_hooks.mask_update
        init_default_scope('mmpretrain')
        source = TASK_UTILS.build(
            dict(update.source, num_clusters=k, num_clusterings=1))
        source.prepare(backbone, **_normalisation(cfg))
        return source

    def floor(self) -> Dict[str, Any]:
        """Score colour and position alone, once."""
        path = osp.join(self.work, 'floor.json')
        settings = [list(self.budget.ks), self.budget.max_eval_images]
        found = _read(path)
        if found is None or found['settings'] != settings:
            maps = {
                k: {
                    key: color_kmeans(image, k)
                    for key, image in self._val_images()
                }
                for k in self.budget.ks
            }
            found = dict(settings=settings, scores=self.mask_scores(maps))
            _write(path, found)
        return found['scores']

    def mask_scores(self, maps: Dict[int, Dict[str, np.ndarray]]
                    ) -> Dict[str, Dict[str, float]]:
        """Score label maps of the val images, for each K."""
        return {
            str(k): {
                name.split('/')[-1]: value
                for name, value in self.metric.evaluate_maps(
                    iter(found.items()), len(found)).items()
            }
            for k, found in maps.items()
        }

    def _val_images(self) -> Iterator[Tuple[str, np.ndarray]]:
        for key in self.metric.keys():
            yield key, read_image(osp.join(self.root, key))

    def sheet(self, runs: Dict[str, Dict[str, Any]]) -> Optional[str]:
        """Draw the masks of CYBORGS' phases beside the truth."""
        run = runs.get('cyborgs_s0')
        if run is None:
            return None
        cfg = self.config('cyborgs', 0)
        k = self.budget.ks[min(1, len(self.budget.ks) - 1)]
        keys = self.metric.keys()[:6]
        images = [read_image(osp.join(self.root, key)) for key in keys]
        truth = CocoTruth(
            self._ann('instances', 'val'), self.panoptic['val'])
        columns = {
            'ground truth': [truth.segments(key[8:]) for key in keys],
            f'colour, K={k}': [color_kmeans(image, k) for image in images]
        }
        files = [*zip(run['epochs'], run['phases'])]
        if 'random_s0' in runs:
            files.insert(0, (0, runs['random_s0']['phases'][0]))
        for epoch, file in files:
            source = self._source(cfg, _backbone(cfg, file), k)
            columns[f'epoch {epoch}'] = [
                source.label_maps([image], [key], (0, k))[0]
                for image, key in zip(images, keys)
            ]
        return report.sheet(images, columns, self.work)

    def about(self) -> Dict[str, Any]:
        """Where, when and with what the numbers came about."""
        return dict(
            command=' '.join(sys.argv),
            budget=self.budget._asdict(),
            images=len(self.images),
            annotated_images=len(self.annotated),
            depth=self.args.depth,
            panoptic=bool(self.panoptic['train'] and self.panoptic['val']),
            machine=f'{platform.machine()}, {os.cpu_count()} cores, '
            f'{_processor()}'
            + (f', {self.args.gpus} x {torch.cuda.get_device_name()}'
               if torch.cuda.is_available() else ''),
            versions=dict(
                python=platform.python_version(),
                torch=torch.__version__,
                cyborgs_plugin=cyborgs_plugin.__version__),
            commit=_commit(),
            date=datetime.datetime.now(
                datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'))


def main() -> None:
    """Train, judge, report."""
    # A terminated benchmark takes its training run along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # else every weight's initialisation is told
    MMLogger.get_instance('mini_coco', log_level='WARNING')
    bench = Benchmark(parse_args())
    start = time.time()
    runs: Dict[str, Dict[str, Any]] = {}
    results = dict(about=bench.about(), floor=bench.floor(), runs={})
    for method, seed in bench.runs():
        name = f'{method}_s{seed}'
        runs[name] = bench.train(method, seed)
        results['runs'][name] = dict(
            method=method,
            seed=seed,
            epochs=runs[name]['epochs'],
            steps=runs[name]['steps'],
            seconds=runs[name]['seconds'],
            loss=report.read_log(runs[name]['folder'], ('loss', 'step')),
            rounds=report.read_log(
                runs[name]['folder'], ('masks/mBO', 'step')),
            points=bench.judge(method, seed, runs[name]))
        _write(osp.join(bench.work, 'results.json'), results)
    results['bars'] = report.bars(results)
    results['seconds'] = time.time() - start
    _write(osp.join(bench.work, 'results.json'), results)
    files = report.write(results, bench.work)
    sheet = bench.sheet(runs)
    print(f'\n{report.table(results)}\n\n{report.bars_text(results)}\n')
    if bench.args.budget == 'smoke':
        print('A smoke run shows that everything works; its scores are '
              'chance.\n')
    print('\n'.join(filter(None, [*files, sheet])))
    print(f'{results["seconds"] / 60:.1f} min, of which finished runs took '
          'none')


def _widen(cfg: Config) -> None:
    """ResNet-50 in place of ResNet-18: four times the channels."""
    cfg.model.backbone.depth = 50
    neck = cfg.model.neck
    target = neck.projector if 'projector' in neck else neck
    target.in_channels *= 4
    update = cfg.default_hooks.get('mask_update')
    if update and update.source.type == 'NetworkMasks':
        update.source.layer = 'layer2.2'


def _backbone(cfg: Config, file: str) -> torch.nn.Module:
    """A frozen backbone that gives all stages."""
    init_default_scope('mmpretrain')
    backbone = MODELS.build(
        dict(cfg.model.backbone, out_indices=(1, 2, 3)))
    state = torch.load(file, map_location='cpu', weights_only=True)
    backbone.load_state_dict({
        key.removeprefix('backbone.'): value
        for key, value in state['state_dict'].items()
    })
    if torch.cuda.is_available():
        backbone.cuda()
    backbone.eval()
    return backbone


def _normalisation(cfg: Config) -> Dict[str, Any]:
    data = cfg.model.data_preprocessor
    return dict(mean=data.mean, std=data.std, to_rgb=data.to_rgb)


def _read(path: str) -> Any:
    if not osp.isfile(path):
        return None
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def _write(path: str, content: Any) -> None:
    with open(path + '.new', 'w', encoding='utf-8') as file:
        json.dump(content, file, indent=1)
    os.replace(path + '.new', path)


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


if __name__ == '__main__':
    main()
