"""What the processes of gpu_proof.py do."""
import argparse
import functools
import gc
import glob
import os
import os.path as osp
import re
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import mini_coco
import numpy as np
import torch
from gpu_proof_plan import Plan, RunSpeed
from mini_coco_report import read_log
from mini_coco_score import Scores
from mini_coco_train import BUDGETS, Trainings
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS, TASK_UTILS

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets import read_image
from cyborgs_plugin.engine.config_options import use_mixed_precision
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.segmentation import MaskSource, make_round

_DEVICE_DATA = {'default_hooks.device_data': dict(type='DeviceDataHook')}


class Settings(NamedTuple):
    """What runs have in common."""

    data_root: str
    folder: str
    steps: int
    phases: int
    view_size: int
    batch_size: int
    depth: int
    max_images: int | None
    max_eval_images: int | None
    amp: bool
    growth: bool
    """Whether networks before the last are scored."""


class Runs(Trainings):
    """Runs of mini_coco.py, one after another in this process."""

    def __init__(self, settings: Settings) -> None:
        self.bank: str | None = None
        budget = BUDGETS['full']._replace(max_images=settings.max_images)
        BUDGETS['proof'] = budget
        # Of the last network alone, whichever phase it ends.
        each_phase = not settings.growth
        super().__init__(
            argparse.Namespace(
                budget='proof', work_dir=settings.folder, methods=None,
                seeds=None, pretrain_on=None, grid_stride=16, gpus=1,
                cfg_options=_DEVICE_DATA, probe_each_phase=each_phase,
                **{
                    name: value
                    for name, value in settings._asdict().items()
                    if name not in ('folder', 'max_images', 'growth')
                }))

    def config(self, method: str, seed: int) -> Config:
        """The config of a run; masks that are there are not made again."""
        cfg = super().config(method, seed)
        if self.bank is not None and method == 'detcon-fh':
            cfg.default_hooks.pop('mask_update')
            cfg.train_dataloader.dataset.mask_bank = self.bank
        return cfg

    def _launch(self, name: str, config: str, folder: str) -> None:
        cfg = load_config(config)
        cfg.work_dir, cfg.resume = folder, True
        if self.args.amp:
            use_mixed_precision(cfg)
        init_default_scope('mmpretrain')
        Runner.from_cfg(cfg).train()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def begin(folder: str, on_device: bool) -> None:
    """Begin a process, whose output goes to a file."""
    if not on_device:  # many score side by side
        torch.set_num_threads(1)
    file = os.open(
        osp.join(folder, f'process_{os.getpid()}.log'),
        os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    MMLogger.get_instance('gpu_proof', log_level='WARNING')


@functools.lru_cache(1)
def _runs(settings: Settings) -> Runs:
    return Runs(settings)


@functools.lru_cache(1)
def _scores(settings: Settings) -> Scores:
    return Scores(_runs(settings))


def sizes(settings: Settings) -> tuple[int, int]:
    """Batches and images of an epoch."""
    runs = _runs(settings)
    return len(runs.images) // settings.batch_size, len(runs.images)


def train(settings: Settings, method: str, seed: int,
          bank: str | None = None) -> dict[str, Any]:
    """Train a run; see ``Trainings.train``."""
    runs = _runs(settings)
    runs.bank = bank
    return runs.train(method, seed)


def score(settings: Settings, method: str, seed: int,
          run: dict[str, Any]) -> dict[str, Any]:
    """Score a run; see ``Scores.judge``."""
    if not settings.growth:
        run = dict(run, phases=run['phases'][-1:], epochs=run['epochs'][-1:])
    return _scores(settings).judge(method, seed, run)


def floors(settings: Settings) -> dict[str, Any]:
    """Score masks without a network."""
    return _scores(settings).floors()


def time_run(settings: Settings, method: str) -> RunSpeed:
    """Train a short run from scratch; say what it costs."""
    begun = time.perf_counter()
    run = train(settings, method, 0)
    seconds = time.perf_counter() - begun
    steps = [value for _, value in read_log(run['folder'], ('time', 'step'))]
    if not steps:
        raise UserError(f'{run["folder"]} was measured before: empty '
                        f'{settings.folder}')
    step = float(np.median(steps[len(steps) // 2:]))
    images = _runs(settings).images
    image = _round_cost(run['folder'])
    rest = seconds - settings.steps * step - len(images) * image
    return RunSpeed(step, image, max(0., rest))


def _round_cost(folder: str) -> float:
    """Seconds per image that the log of a run says of its mask rounds."""
    said = ''
    for path in glob.glob(osp.join(folder, '*', '*.log')):
        with open(path, encoding='utf-8') as file:
            said += file.read()
    costs = re.findall(r'\(([\d.]+) s per image\)', said)
    return float(np.mean([float(cost) for cost in costs] or [0.]))


def time_score(settings: Settings) -> float:
    """Seconds that the scores of one network take."""
    begun = time.perf_counter()
    score(settings, 'random', 0, train(settings, 'random', 0))
    return time.perf_counter() - begun


class _Ready(MaskSource):
    """Label maps that are made already, by key."""

    def __init__(self, maps: dict[str, np.ndarray]) -> None:
        self._maps = maps

    def label_maps(self, images: Sequence[np.ndarray], keys: Sequence[str],
                   seed: Sequence[int]) -> list[np.ndarray]:
        """Give those of a group."""
        return [self._maps[key] for key in keys]


def felzenszwalb(settings: Settings, root: str, pool: Executor) -> str:
    """Make DetCon's masks on many cores.

    Args:
        settings (Settings): Of the runs.
        root (str): Where the bank is written.
        pool (Executor): Processes that segment.

    Returns:
        str: The bank's folder.
    """
    runs = _runs(settings)
    cfg = runs.config('detcon-fh', 0)
    init_default_scope('mmpretrain')
    images = DATASETS.build(cfg.train_dataloader.dataset).images()
    source = cfg.default_hooks.mask_update.source
    parts = [images[first:first + 16] for first in range(0, len(images), 16)]
    maps = {
        key: label_map
        for found in pool.map(
            functools.partial(_segment, source.to_dict()), parts)
        for key, label_map in found.items()
    }
    return make_round(_Ready(maps), images, root, 0, 0).path


def _segment(source: dict[str, Any],
             images: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    init_default_scope('mmpretrain')
    keys = [key for key, _ in images]
    made = TASK_UTILS.build(source).label_maps(
        [read_image(path) for _, path in images], keys, (0, ))
    return dict(zip(keys, made))


def about(settings: Settings, plan: Plan,
          args: argparse.Namespace) -> dict[str, Any]:
    """Begin the results: where, when and with what they came about."""
    runs = _runs(settings)
    return dict(
        about=dict(
            mini_coco.about(runs, _scores(settings)),
            minutes=args.minutes, at_once=plan.at_once,
            seeds=args.seeds),
        floors={}, runs={})
