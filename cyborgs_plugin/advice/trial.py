"""What a run costs here, by a few steps and one group of a mask round."""
import copy
import math
import os.path as osp
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS, TASK_UTILS
from torch import Tensor, nn

from ..datasets import MaskBank, SceneDataset
from ..segmentation.known_superpixels import known_superpixels
from ..segmentation.mask_round import make_round

_SMALL = 8
"""Images of the first step on a CPU."""
_PATIENCE = 8.
"""Seconds above which a batch on a CPU is estimated from a smaller one."""


@dataclass(frozen=True)
class Trial:
    """What was measured; memory and files are counted, not guessed."""

    step: float
    """Seconds of a step."""
    load: float
    """Seconds in which a core makes the two views of a photograph."""
    round: float
    """Seconds of a mask round for a photograph whose superpixels are known,
    if there are any."""
    memory: int
    """Bytes that a process takes at its peak, on the GPU if there is one."""
    checkpoint: int
    """Bytes of a checkpoint."""
    masks: float
    """Bytes of a mask round for a photograph."""
    first: float = 0.
    """Seconds that it takes longer if its superpixels are not known yet."""


TOO_LARGE = Trial(math.inf, math.inf, math.inf, sys.maxsize, 0, 0.)
"""Of a step that ended because memory ran out."""


def silence() -> None:
    """Keep what is built for a trial from logging; errors are still told."""
    if not MMLogger.check_instance_created('pretrain_trial'):
        MMLogger.get_instance('pretrain_trial', log_level='ERROR')


def draw_masks(cfg: Config, indices: Sequence[int], root: str,
               model: nn.Module) -> tuple[SceneDataset, MaskBank]:
    """Make a mask round of a few photographs of a config.

    Args:
        cfg (Config): A config that pretrains.
        indices (Sequence[int]): Places of the photographs.
        root (str): Folder of the round.
        model (nn.Module): The config's model, whose masks they are.

    Returns:
        tuple[SceneDataset, MaskBank]: The photographs with these masks, and
        the round.
    """
    data = dict(copy.deepcopy(cfg.train_dataloader.dataset.to_dict()),
                indices=list(indices))
    scenes = DATASETS.build(data)
    hook = cfg.default_hooks.mask_update
    source = TASK_UTILS.build((hook.get('initial') or hook.source).to_dict())
    source.prepare(source.network(model.backbone), model.data_preprocessor)
    bank = make_round(source, scenes.images(), root, 0, 0,
                      group_size=min(len(indices), hook.get('group_size', 16)),
                      read_args=scenes.read_args, max_broken=1,
                      progress=False)
    scenes.use_masks(bank)
    return scenes, bank


def build_model(cfg: Config) -> nn.Module:
    """The model of a config where it is trained, with random weights."""
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    settings = copy.deepcopy(cfg.model.to_dict())
    settings['backbone'].pop('init_cfg', None)
    return revert_sync_batchnorm(MODELS.build(settings)).to(get_device())


def measure(cfg: Config, indices: Sequence[int], batch: int) -> Trial:
    """Time a run's parts here, and count what it writes.

    Args:
        cfg (Config): The config of the run.
        indices (Sequence[int]): Places of the photographs that are taken.
        batch (int): Images of a process's batch.
    """
    silence()
    model = build_model(cfg)
    root = tempfile.mkdtemp(prefix='cyborgs_trial_')

    def timed_masks(name: str, chosen: Sequence[int]
                    ) -> tuple[float, SceneDataset, MaskBank]:
        began = time.perf_counter()
        made = draw_masks(cfg, chosen, osp.join(root, name), model)
        return (time.perf_counter() - began) / len(chosen), *made

    try:
        timed_masks('warm', indices[:1])
        known_superpixels.forget()
        first, *_ = timed_masks('first', indices)
        later, scenes, bank = timed_masks('later', indices)
        files = sum(entry.stat().st_size
                    for entry in Path(bank.path).iterdir())
        began = time.perf_counter()
        samples = [scenes[number] for number in range(len(scenes))]
        load = (time.perf_counter() - began) / len(samples)
    finally:
        known_superpixels.forget()  # may be measured again
        shutil.rmtree(root, ignore_errors=True)
    step, memory, checkpoint = _steps(cfg, model, samples, batch)
    searches = cfg.default_hooks.mask_update.source.get('superpixels')
    return Trial(step, load, later, memory, checkpoint,
                 files / max(1, len(bank)),
                 max(0., first - later) if searches else 0.)


def _steps(cfg: Config, model: Any, samples: Sequence[dict],
           batch: int) -> tuple[float, int, int]:
    """Seconds of a step, bytes at the peak, bytes of a checkpoint."""
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    on_gpu = next(model.parameters()).device.type == 'cuda'

    def timed(size: int) -> float:
        chosen = [samples[number % len(samples)] for number in range(size)]
        began = time.perf_counter()
        model.train_step(default_collate(chosen), wrapper)
        if hasattr(model, 'update_target'):
            model.update_target()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        seconds = sorted(timed(batch) for _ in range(6))[2]
        memory = torch.cuda.max_memory_reserved()
    else:
        small = min(_SMALL, batch)
        _forget_peak()
        timed(small)  # the first takes longer
        before, one = _peak(), timed(small)
        seconds, size = one * batch / small, small
        if small < batch and seconds < _PATIENCE:
            seconds, size = min(timed(batch), timed(batch)), batch
        memory = round(_peak() + (_peak() - before) * (batch / size - 1))
    saved = [*model.state_dict().values(), *_tensors(
        wrapper.optimizer.state_dict()['state'])]
    return seconds, memory, sum(
        tensor.numel() * tensor.element_size() for tensor in saved)


def _tensors(node: object) -> list[Tensor]:
    if isinstance(node, Tensor):
        return [node]
    if isinstance(node, dict):
        return [found for child in node.values() for found in _tensors(child)]
    return []


def _forget_peak() -> None:
    """Let what this process did before, as of a notebook, not count."""
    with suppress(OSError), open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # of Linux alone


def _peak() -> int:
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
