"""What a training step costs, against that of mmpretrain's BYOL.

Run: python tools/benchmarks/step_speed.py
     python tools/benchmarks/step_speed.py --depth 18 --size 128 --batch 32

BYOL by its own config, CYBORGS by ours, CYBORGS with masks made in the step,
and CYBORGS in the form of the published code make steps in turn; on a CPU in
one thread, by CPU time. Printed are the ratio of steps next to each other,
that of the peaks of memory, and where the time goes; and how often the host
waits for the device in a step, and how many kernels it starts, counted on a
pretended device. Views and label maps are drawn, and all slots hold a region.
See docs/performance.md.
"""
import argparse
import logging
import os
import os.path as osp
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from loss_memory import four_einsums, peak_memory  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.hub import get_config  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cyborgs_plugin.engine import LoggedScalarsHook  # noqa: E402
from cyborgs_plugin.errors import UserError, reported  # noqa: E402
from cyborgs_plugin.models import (  # noqa: E402
    MaskContrastiveLoss,
    PublishedMaskGroundedNeck,
)

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
RECIPE = osp.join(ROOT, 'configs', 'cyborgs_coco.py')
BYOL = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'
CHANNELS = {18: (128, 256, 512), 50: (512, 1024, 2048)}
"""Of the stages 2, 3 and 4."""
METHODS = ('byol', 'cyborgs', 'in-step', 'published')
BACKBONES = ('online backbone', 'target backbone', 'backward of backbone')


@MODELS.register_module()
class PublishedFormNeck(PublishedMaskGroundedNeck):
    """The neck as the published code computes it.

    A float map for each of 81 ids of each view, of which the largest mean
    tells a cell's label; empty regions; one slot at a time.

    Args:
        **kwargs: Of ``MaskGroundedNeck``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            num_ids=81, empty_regions=True, project_by_slot=True, **kwargs)

    def cells(self, label_maps: Tensor) -> Tensor:
        """Reduce label maps (B, H, W) to the grid (B, h, w), int64."""
        ids = label_maps.long()
        maps = F.one_hot(ids.masked_fill(ids >= 81, 0), 81)
        height, width = (-(-size // self.grid_stride)
                         for size in label_maps.shape[1:])
        return F.adaptive_avg_pool2d(
            maps.permute(0, 3, 1, 2).float(), (height, width)).argmax(1)

    def fuse(self, feats: tuple[Tensor, ...],
             grid_size: tuple[int, int]) -> Tensor:
        """Bring the stages to one grid, (B, sum of C, h, w)."""
        return torch.cat([F.adaptive_avg_pool2d(feats[index], grid_size)
                          for index in self.in_indices], 1)


@MODELS.register_module()
class PublishedFormLoss(MaskContrastiveLoss):
    """The loss as the published code computes it, on one process."""

    def forward(self, preds: tuple[Tensor, Tensor],
                targets: tuple[Tensor, Tensor], pred_ids: tuple[Tensor,
                                                                Tensor],
                target_ids: tuple[Tensor, Tensor]) -> Tensor:
        """As of ``MaskContrastiveLoss``."""
        return four_einsums(*preds, *targets, *pred_ids, *target_ids,
                            temperature=self.temperature)


def config_of(method: str, depth: int, size: int) -> Config:
    """A method's own config, for a network and views of a size."""
    channels = CHANNELS[depth]
    if method == 'byol':
        cfg = get_config(BYOL)
        # without other processes it is the same, and a CPU has no SyncBN
        cfg.model.backbone.norm_cfg = dict(type='BN')
        cfg.model.neck.norm_cfg = dict(type='BN1d')
        cfg.model.head.predictor.norm_cfg = dict(type='BN1d')
        cfg.model.neck.in_channels = channels[-1]
        cfg.model.data_preprocessor = dict(
            Config.fromfile(RECIPE).model.data_preprocessor,
            type='SelfSupDataPreprocessor')
    else:
        cfg = Config.fromfile(RECIPE)
        cfg.model.neck.grid_stride = 32 if size > 160 else 16
    if method == 'in-step':
        cfg.model.in_step_masks = dict(type='InStepMasks')
    if method == 'published':
        cfg.model.neck.type = 'PublishedFormNeck'
        cfg.model.head.type = 'PublishedMaskContrastHead'
        cfg.model.head.loss.type = 'PublishedFormLoss'
        cfg.model.target_ema.type = 'ExponentialMovingAverage'
        cfg.optim_wrapper.optimizer.type = 'LARS'
    cfg.model.backbone.depth = depth
    return cfg


def draw_batch(batch: int, size: int, ids: int = 24) -> dict[str, Any]:
    """Views (B, 3, S, S), uint8, and label maps of blobs of some ids."""
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(
        2 * batch, ids, size // 16, size // 16, generator=random)
    maps = F.interpolate(noise, size=(size, size), mode='bilinear').argmax(1)
    return dict(
        inputs=[torch.randint(256, (batch, 3, size, size), generator=random,
                              dtype=torch.uint8) for _ in range(2)],
        data_samples=[DataSample().set_mask(pair)
                      for pair in maps.byte().unflatten(0, (batch, 2))])


class Trainer:
    """Makes steps of a method, as the runner and its hooks do.

    Args:
        method (str): Of :data:`METHODS`.
        depth (int): Of the ResNet, 18 or 50. Defaults to 50.
        size (int): Side of a view. Defaults to 224.
        batch (int): Images. Defaults to 8.
        amp (str, optional): 'bfloat16' or 'float16'. Defaults to None.
        channels_last (bool): Defaults to False.
        compiled (bool): As ``compile=True``. Defaults to False.
        device (str): 'cpu', 'cuda' or 'pretended'. Defaults to 'cpu'.
        ids (int): Of a label map. Defaults to 24, which fill all slots.
    """

    def __init__(self, method: str, depth: int = 50, size: int = 224,
                 batch: int = 8, amp: str | None = None,
                 channels_last: bool = False, compiled: bool = False,
                 device: str = 'cpu', ids: int = 24) -> None:
        init_default_scope('mmpretrain')
        # of which BYOL's target takes its momentum
        MessageHub.get_current_instance().update_info('max_iters', 10000)
        cfg = config_of(method, depth, size)
        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.model.init_weights()
        if device == 'pretended':
            from pretended_device import to_device
            to_device(self.model)
        else:
            self.model.to(device)
        if amp is not None:
            cfg.optim_wrapper.update(
                dict(type='AmpOptimWrapper', dtype=amp) if device == 'cuda'
                else dict(type='BFloat16OptimWrapper'))
        self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.data = draw_batch(batch, size, ids)
        if method == 'in-step':  # K of the first step: the most regions
            self.data['data_samples'] = [DataSample() for _ in range(batch)]
        self.log = LoggedScalarsHook() if method in (
            'cyborgs', 'in-step') else None
        self.device = device
        self.follows = hasattr(self.model, 'update_target')
        if self.follows:
            self.model.update_target()
        if compiled:
            self.model.forward = torch.compile(self.model.forward)
        self.parts: dict[str, float] = defaultdict(float)
        # of the parts that are running: when begun, and what is not theirs
        self._begins: list[float] = []
        self._inner: list[float] = []
        self._since = 0.

    def step(self) -> dict[str, float]:
        """Make one; returns what is logged."""
        logged = self.model.train_step(self.data, self.wrapper)
        if self.follows:
            self.model.update_target()
        if self.log is not None:
            self.log.after_train_iter(None, 0, outputs=logged)
        return {name: value if isinstance(value, float) else value.item()
                for name, value in logged.items()}

    def clock(self) -> float:
        """Seconds: of CPU time, or when the device has done its work."""
        if self.device == 'cuda':
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def timed_step(self) -> float:
        """Seconds of a step."""
        begin = self.clock()
        self.step()
        return self.clock() - begin

    def watch(self) -> None:
        """From now on keep the seconds of each part in ``parts``."""
        model, target = self.model, self.model.target_net.module
        self._time(model.data_preprocessor, 'forward', 'views to the device')
        self._time(model.backbone, 'forward', 'online backbone')
        self._time(target[0], 'forward', 'target backbone')
        for neck in (model.neck, target[1]):
            self._time(neck, 'forward', 'necks')
            if self.follows:
                self._time(neck, 'cells', 'cells and draws')
                self._time(neck, 'sample', 'cells and draws')
        if getattr(model, 'in_step_masks', None) is not None:
            self._time(model.in_step_masks, 'forward', 'masks in the step')
        self._time(model.head.predictor, 'forward', 'predictor')
        self._time(model.head, 'loss', 'loss')
        self._time(self.wrapper, 'backward', 'backward of backbone')
        self._time(self.wrapper, 'step', 'optimizer')
        self._time(self.wrapper, 'zero_grad', 'optimizer')
        self._time(model.target_net, 'update_parameters', 'target follows')

        model.neck.register_forward_hook(self._neck_began)
        model.backbone.register_forward_hook(self._neck_ended)

    def _neck_began(self, module: nn.Module, inputs: Any,
                    outputs: Sequence[Tensor]) -> None:
        """In the backward: when the gradient of its output is there."""
        def arrived(gradient: Tensor) -> None:
            self._since = self.clock()
            if not self._inner[-1]:  # the first of both views
                self._inner[-1] = self._since - self._begins[-1]
                self.parts['backward of head'] += self._inner[-1]

        if outputs[0].requires_grad:
            outputs[0].register_hook(arrived)

    def _neck_ended(self, module: nn.Module, inputs: Any,
                    outputs: Sequence[Tensor]) -> None:
        """In the backward: when the gradient of its input is there."""
        def arrived(gradient: Tensor) -> None:
            spent = self.clock() - self._since
            self._inner[-1] += spent
            self.parts['backward of necks'] += spent

        if outputs[-1].requires_grad:
            outputs[-1].register_hook(arrived)

    def _time(self, owner: Any, name: str, part: str) -> None:
        """Count the time of a method, less that of others in it."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._begins.append(self.clock())
            self._inner.append(0.)
            try:
                return original(*args, **kwargs)
            finally:
                whole = self.clock() - self._begins.pop()
                self.parts[part] += whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        setattr(owner, name, timed)


def in_turn(trainers: dict[str, Trainer], rounds: int,
            forget: int = 1) -> dict[str, np.ndarray]:
    """Seconds of each step of each, after the first ones."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(forget + rounds):
        for name in list(trainers)[::1 if number % 2 else -1]:
            if number == forget:
                trainers[name].parts.clear()
            spent = trainers[name].timed_step()
            if number >= forget:
                seconds[name].append(spent)
    return {name: np.array(spent) for name, spent in seconds.items()}


def compared(seconds: dict[str, np.ndarray]) -> float:
    """CYBORGS over BYOL: median of the ratios of steps next to each other."""
    return float(np.median(seconds['cyborgs'] / seconds['byol']))


def peak_mib(trainer: Trainer) -> float:
    """MiB of weights and what is kept for them, and the most of a step."""
    states = trainer.wrapper.optimizer.state.values()
    kept = [*trainer.model.parameters(), *trainer.model.buffers(),
            *(value for state in states for value in state.values()
              if isinstance(value, Tensor))]
    held = sum({one.data_ptr(): one.nbytes for one in kept}.values())
    trainer.model.zero_grad()
    if trainer.device == 'cpu':
        held += peak_memory(trainer.step)
    else:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        trainer.step()
        held += torch.cuda.max_memory_allocated() - before
    return held / 2**20


def measure(depth: int = 50, size: int = 224, batch: int = 8,
            amp: str | None = None, channels_last: bool = False,
            compiled: bool = False, device: str = 'cpu',
            rounds: int | None = None) -> dict[str, Any]:
    """Compare a step of CYBORGS with one of BYOL.

    Args:
        depth (int): Of the ResNet, 18 or 50. Defaults to 50.
        size (int): Side of a view. Defaults to 224.
        batch (int): Images. Defaults to 8.
        amp (str, optional): 'bfloat16' or 'float16'. Defaults to None.
        channels_last (bool): Of both. Defaults to False.
        compiled (bool): Both. Defaults to False.
        device (str): Defaults to 'cpu', where it is CPU time.
        rounds (int, optional): Steps of each that are measured.
            Defaults to None, 5 on a CPU, 15 elsewhere.

    Returns:
        dict: Medians ``byol_ms`` and ``cyborgs_ms``, the ``ratio`` of
        neighbouring steps, ``images_per_s`` of CYBORGS, and ``peak_mib`` of
        each method.
    """
    trainers = {
        name: Trainer(name, depth, size, batch, amp, channels_last, compiled,
                      device) for name in ('byol', 'cyborgs')
    }
    on_cpu = device == 'cpu'
    seconds = in_turn(trainers, rounds or (5 if on_cpu else 15),
                      1 if on_cpu else 5)
    median = {name: float(np.median(spent))
              for name, spent in seconds.items()}
    return dict(
        byol_ms=median['byol'] * 1e3,
        cyborgs_ms=median['cyborgs'] * 1e3,
        ratio=compared(seconds),
        images_per_s=batch / median['cyborgs'],
        peak_mib={name: peak_mib(one) for name, one in trainers.items()})


def count(method: str, depth: int, batch: int) -> tuple[Counter, Counter]:
    """Waits of the host and kernels of a step, on a pretended device.

    Neither depends on the size of views. torch takes no new device once it
    has computed a gradient.

    Args:
        method (str): Of :data:`METHODS`.
        depth (int): Of the ResNet, 18 or 50.
        batch (int): Images.

    Returns:
        tuple[Counter, Counter]: How often the host waits, by kind and place;
        and how often each operator is started.
    """
    from pretended_device import KERNELS, WAITS, Pretended
    with Pretended():
        trainer = Trainer(method, depth, 64, batch, device='pretended')
        trainer.step()
        WAITS.clear()
        KERNELS.clear()
        trainer.step()
        return WAITS.copy(), KERNELS.copy()


def outside(parts: dict[str, float]) -> float:
    """Seconds outside of the backbones."""
    return sum(spent for part, spent in parts.items()
               if part not in BACKBONES)


def compared_by_parts(trainers: dict[str, Trainer], one: str = 'cyborgs',
                      other: str = 'byol') -> float:
    """One over another, the backbones taken to need the same time.

    They are the same network on the same pixels, and by far the most of a
    step: on a busy machine their noise is more than all that differs.
    """
    ours, theirs = trainers[one].parts, trainers[other].parts
    shared = sum(ours[part] + theirs[part] for part in BACKBONES) / 2
    return (shared + outside(ours)) / (shared + outside(theirs))


def table(trainers: dict[str, Trainer], rounds: int) -> str:
    """Milliseconds of each part of a step, as Markdown."""
    names = list(dict.fromkeys(
        part for trainer in trainers.values() for part in trainer.parts))
    lines = [f'| ms | {" | ".join(trainers)} |',
             f'|---|{"---|" * len(trainers)}']
    for name in names:
        cells = [f'{trainer.parts[name] / rounds * 1e3:.1f}'
                 if name in trainer.parts else ''
                 for trainer in trainers.values()]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='A step of CYBORGS against one of BYOL')
    parser.add_argument(
        '--depth', type=int, choices=list(CHANNELS), default=50,
        help='of the ResNet (default: 50)')
    parser.add_argument(
        '--size', type=int, default=224,
        help='side of a view, a multiple of 32 (default: 224)')
    parser.add_argument(
        '--batch', type=int, default=8, help='images (default: 8)')
    parser.add_argument(
        '--rounds', type=int, default=5,
        help='steps of each, whose median counts (default: 5)')
    parser.add_argument(
        '--ids', type=int, default=24,
        help='of a label map (default: 24, which fill all slots)')
    parser.add_argument(
        '--amp', choices=['bfloat16', 'float16'],
        help='train in mixed precision of this type')
    parser.add_argument(
        '--channels-last', action='store_true',
        help='keep images and weights in this layout')
    parser.add_argument(
        '--compiled', action='store_true',
        help='compile the models with torch.compile')
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], default='cpu',
        help='default: cpu')
    return parser.parse_args()


@reported()
def main() -> None:
    """Print what was found."""
    args = parse_args()
    if (min(args.rounds, args.batch, args.ids, args.size) < 1
            or args.size % 32):
        raise UserError('--rounds, --batch and --ids must be 1 or more, and '
                        '--size a multiple of 32')
    logging.disable(logging.WARNING)
    warnings.filterwarnings('ignore')
    if args.device == 'cpu':
        torch.set_num_threads(1)
    for name in METHODS:  # first, since torch must hear of the device first
        waits, kernels = count(name, args.depth, args.batch)
        print(f'{name}: the host waits {sum(waits.values())} times per step, '
              f'{sum(kernels.values())} kernels (pretended device)')
        for (kind, place), times in waits.most_common():
            print(f'  {times:4d} x {kind}, {place}')
    trainers = {
        name: Trainer(name, args.depth, args.size, args.batch, args.amp,
                      args.channels_last, args.compiled, args.device,
                      args.ids)
        for name in METHODS
    }
    if args.device == 'cpu':  # where looking at the clock costs nothing
        for trainer in trainers.values():
            trainer.watch()
    seconds = in_turn(trainers, args.rounds)
    if args.device != 'cpu':
        for trainer in trainers.values():
            trainer.watch()
        in_turn(trainers, args.rounds)
    print(f'ResNet-{args.depth}, views of {args.size}, {args.batch} images, '
          f'{args.device}: ' + ', '.join(
              f'{name} {np.median(spent) * 1e3:.0f} ms'
              for name, spent in seconds.items()))
    print(f'CYBORGS / BYOL: {compared(seconds):.3f}; with the same time for '
          f'the backbones: {compared_by_parts(trainers):.3f}')
    making = trainers['in-step'].parts['masks in the step'] / args.rounds
    print('Masks made in the step / given, with the same time for the '
          'backbones: '
          f'{compared_by_parts(trainers, "in-step", "cyborgs"):.3f}; making '
          f'them is {making / np.median(seconds["byol"]):.2%} of a step of '
          'BYOL')
    ours, theirs = (outside(trainers[name].parts)
                    for name in ('cyborgs', 'published'))
    print(f'published / CYBORGS, outside of the backbones: '
          f'{theirs / ours:.2f}\n\n{table(trainers, args.rounds)}\n')
    peaks = {name: peak_mib(trainer) for name, trainer in trainers.items()}
    print('peak memory, MiB: ' + ', '.join(
        f'{name} {peak:.0f}' for name, peak in peaks.items())
        + f'; CYBORGS / BYOL: {peaks["cyborgs"] / peaks["byol"]:.3f}')


if __name__ == '__main__':
    main()
