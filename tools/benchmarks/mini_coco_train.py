"""Trainings of mini_coco.py: one budget, one data set, many methods."""
import argparse
import hashlib
import json
import os
import os.path as osp
import subprocess
import sys
import time
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import MODELS

from cyborgs_plugin.commands import command
from cyborgs_plugin.datasets.image_io import IMG_EXTENSIONS
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation import CocoTruth
from cyborgs_plugin.files import written_aside
from cyborgs_plugin.safe_load import load_weights

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CONFIG = osp.join(ROOT, 'configs', 'baselines', '{}_r18_coco-mini.py')


class Budget(NamedTuple):
    """What a run may cost, and how finely it is looked at."""

    steps: int
    phases: int
    """Equal parts of a run; CYBORGS renews its masks between them."""
    view_size: int
    batch_size: int
    seeds: dict[str, tuple[int, ...]]
    max_images: int | None
    max_eval_images: int | None
    long_side: int | None
    ks: tuple[int, ...]

    def is_probed(self, phase: int) -> bool:
        """Whether all probes are run after a phase: after each third."""
        return 3 * phase % self.phases == 0


METHODS = ('cyborgs', 'cyborgs-in-step', 'detcon-fh', 'byol', 'densecl',
           'cyborgs-oracle', 'cyborgs-annotated')
ON_DEMAND = ('cyborgs-cells', 'superpixels', 'distill', 'start', 'continue')
"""Run only if they are named: other masks, or TEACHER=FILE, START=FILE."""
_UNTRAINED = dict(random='cyborgs', start='continue')
"""What is scored as it begins, and whose beginning that is."""
BUDGETS = dict(
    full=Budget(
        steps=819,
        phases=3,
        view_size=96,
        batch_size=32,
        seeds={
            **{method: (0, ) for method in (*METHODS, *ON_DEMAND)},
            **dict.fromkeys(
                ('random', 'cyborgs', 'detcon-fh', 'byol', 'densecl'), (0, 1))
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
        seeds={method: (0, ) for method in ('random', *METHODS, *ON_DEMAND)},
        max_images=48,
        max_eval_images=24,
        long_side=160,
        ks=(5, 8)))


class Trainings:
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
            for name in Budget._fields
            if name != 'seeds' and getattr(args, name, None)
        }
        self.budget = budget._replace(**changed)
        self.work = osp.abspath(args.work_dir.format(budget=args.budget))
        os.makedirs(osp.join(self.work, 'configs'), exist_ok=True)
        self.truth = {split: self._truth(split) for split in ('train', 'val')}
        self.images = self._pretraining_images()
        annotated = set(self.truth['train'].names)
        self.annotated = [
            name for name in self.images
            if name.startswith('train2017/') and name[10:] in annotated
        ]

    def annotations(self, kind: str, split: str) -> str:
        """Name the json of a split's instances or panoptic segments."""
        return osp.join(self.root, 'annotations', f'{kind}_{split}2017.json')

    def _truth(self, split: str) -> CocoTruth:
        path = self.annotations('instances', split)
        if not osp.isfile(path):
            raise UserError(
                f'{path} is missing: --data-root must be laid out as COCO '
                '(train2017/, val2017/, annotations/). Without real images: '
                + command('dataset_converters/make_toy_scenes')
                + ', then --data-root data/toy_scenes')
        return CocoTruth(path)

    def _pretraining_images(self) -> list[str]:
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
            raise UserError(
                f'{len(names)} images in {folders} of {self.root} are less '
                f'than a batch of {self.budget.batch_size}')
        return names

    def runs(self) -> list[tuple[str, int]]:
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
        method = _UNTRAINED.get(method, method)
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
        cfg.param_scheduler[0].end = max(1, epochs // 9)  # the warm-up
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
                    ann_file=self.annotations('instances', 'train'),
                    key_prefix='train2017/',
                    max_images=500)
            if 'ann_file' in update.source:
                update.source.ann_file = self.annotations('instances', 'train')
            if self.args.amp and update.source.type == 'NetworkMasks':
                update.source.dtype = 'bfloat16'
        if 'grid_stride' in cfg.model.neck:
            cfg.model.neck.grid_stride = self.args.grid_stride
        if self.args.depth == 50:
            _widen(cfg)
        cfg.merge_from_dict(self.args.cfg_options)
        return cfg

    def _listing(self, name: str, images: list[str]) -> str:
        """Write which images to train on, for both kinds of data set."""
        path = osp.join(self.work, f'images_{name}')
        with open(path + '.txt', 'w', encoding='utf-8') as file:
            file.write('\n'.join(images))
        with open(path + '.json', 'w', encoding='utf-8') as file:
            json.dump(dict(images=[dict(file_name=i) for i in images]), file)
        return path

    def train(self, method: str, seed: int) -> dict[str, Any]:
        """Train a run unless it is done; keep the backbones of its phases.

        Returns:
            dict[str, Any]: ``folder``, ``phases`` (files of the backbones,
            in order), ``epochs``, ``steps`` and ``seconds``.
        """
        name = f'{method}_s{seed}'
        folder = osp.join(self.work, name)
        cfg = self.config(method, seed)
        text = cfg.dump()
        settings = text + str(self.images) + str(self.args.amp)
        signature = hashlib.sha256(settings.encode()).hexdigest()
        done = read(osp.join(folder, 'done.json'))
        if done is None:
            os.makedirs(folder, exist_ok=True)
            started = read(osp.join(folder, 'started.json'))
            if started is None:
                write(
                    osp.join(folder, 'started.json'),
                    dict(signature=signature))
        for state in (done, read(osp.join(folder, 'started.json'))):
            if state is not None and state['signature'] != signature:
                raise UserError(
                    f'{folder} holds a run with other settings or images: '
                    'give another --work-dir, or delete that folder')
        if done is not None:
            print(f'[{name}] done before', flush=True)
            return done
        epochs = cfg.train_cfg.max_epochs
        phase = cfg.default_hooks.checkpoint.interval
        start = time.time()
        if method in _UNTRAINED:
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
                state = load_weights(
                    osp.join(folder, f'epoch_{epoch}.pth'),
                    log=True)['state_dict']
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
        write(osp.join(folder, 'done.json'), done)
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
            raise UserError(f'{tail}\n[{name}] failed with exit code {code}; '
                            f'the whole log: {log}. Fix it; the same '
                            'command resumes here')


def _widen(cfg: Config) -> None:
    """ResNet-50 in place of ResNet-18: four times the channels."""
    cfg.model.backbone.depth = 50
    neck = cfg.model.neck
    target = neck.projector if 'projector' in neck else neck
    if 'in_channels' in target:  # else those of the backbone
        target.in_channels *= 4


def read(path: str) -> Any:
    """Read a json, or None where there is no such file."""
    if not osp.isfile(path):
        return None
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def write(path: str, content: Any) -> None:
    """Write a json at once."""
    with written_aside(path) as partial, open(
            partial, 'w', encoding='utf-8') as file:
        json.dump(content, file, indent=1)
