"""Photographs that stay on the device during training."""
import os
import time
from inspect import signature
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS, TASK_UTILS

from ..datasets.device_scenes import DeviceLoader
from ..datasets.view_laws import laws_of, source_side
from ..errors import UserError
from ..ops.view_draws import ViewLaw
from ..segmentation.ranks import main_seed, together
from .view_crops import leaves


@HOOKS.register_module()
class DeviceDataHook(Hook):
    """Decode the photographs once, keep them on a device and make views there.

    A :class:`~cyborgs_plugin.datasets.device_scenes.DeviceLoader` with the
    same data set, sampler and pipeline replaces the training data loader.
    Views have the same distribution. The random numbers for a photograph
    depend only on the run's seed, the epoch and its key. Mask rounds also read
    these photographs.

    Each of several processes holds all photographs. If they do not fit, each
    holds and sees only its own part, in its own order, and rounds read the
    others from disk. If the parts do not fit either, the ordinary loader is
    used, and a line says how much memory they need and how much is free. Label
    maps need additional memory.

    Args:
        source_side (int, optional): Long side in pixels to which larger
            photographs are reduced. Defaults to None: twice the side at which
            the smallest crop has the pixels of a view, or the ``long_side`` of
            mask rounds, whichever is larger.
        device (str, optional): Device that keeps them, such as 'cuda' or
            'cpu'. Defaults to None, the device of the model.
        max_share (float): Largest part of the free memory that they may use, 0
            to 1; the rest is for the training steps. Defaults to 0.5.
    """

    # Before the first mask round, and before hooks that use the loader.
    priority = 'HIGH'

    def __init__(self,
                 source_side: int | None = None,
                 device: str | None = None,
                 max_share: float = 0.5) -> None:
        if source_side is not None and source_side < 1:
            raise UserError('default_hooks.device_data.source_side must be a '
                            f'number of pixels, but is {source_side}')
        if not 0 < max_share <= 1:
            raise UserError('default_hooks.device_data.max_share must be a '
                            f'part from 0 to 1, but is {max_share}')
        self.source_side = source_side
        self.device = device
        self.max_share = max_share
        self._loader: DeviceLoader | None = None

    def before_train(self, runner: Runner) -> None:
        """Decode the photographs, if they fit.

        Raises:
            UserError: If training is not by epochs, the order is one of
                windows of tar files, or the pipeline has a transform that is
                not supported on the device.
        """
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise UserError(
                'DeviceDataHook (data_on_device=True) draws by epochs: set '
                'train_cfg=dict(by_epoch=True, max_epochs=...)')
        began = time.perf_counter()
        ordinary = runner.train_loop.dataloader
        if getattr(ordinary.sampler, 'window', None) is not None:
            raise UserError(
                'train_dataloader.sampler.window reads from few tar files at '
                'any time, while DeviceDataHook (data_on_device=True) reads '
                'all photographs once, before training: leave out one of the '
                'two')
        laws = _shared_laws(ordinary.dataset)
        side = self.source_side or max(source_side(laws), _rounds_side(runner))
        device = torch.device(
            self.device or next(runner.model.parameters()).device)
        free = free_bytes(device)
        if device.type == 'cpu':  # which the processes of a machine share
            free //= int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        seed = main_seed(runner.seed)
        # The same for all processes: the order of the data depends on it.
        room = min(all_gather_object(int(self.max_share * free)))
        loader = DeviceLoader(ordinary, laws, device, side, seed)
        needs = loader.held.num_bytes
        part = get_rank(), get_world_size()
        if needs > room and part[1] > 1:
            loader = DeviceLoader(ordinary, laws, device, side, seed, part)
        fits = max(all_gather_object(loader.held.num_bytes)) <= room
        self._tell_other_place(runner, fits, loader.part)
        if not fits:
            runner.logger.warning(
                'The photographs stay on the disk: data_on_device=True needs '
                f'{_gigabytes(needs)}, {_gigabytes(free)} are free on '
                f'{device}, of which they may take {self.max_share:.0%}. '
                'A smaller default_hooks.device_data.source_side than '
                f'{side} pixels takes less')
            return
        together(loader.load)
        self._loader = runner.train_loop.dataloader = loader
        runner.logger.info(
            f'{len(loader.held.whole)} photographs of at most {side} pixels '
            f'on the long side are on {device}: '
            f'{_gigabytes(loader.held.num_bytes)}, decoded '
            f'in {time.perf_counter() - began:.0f} s')

    @staticmethod
    def _tell_other_place(runner: Runner, fits: bool,
                          part: tuple[int, int]) -> None:
        """Report if a resumed run sees its data in another way than before."""
        place = 'the disk'
        if fits:
            place = 'the device' + f', in {part[1]} parts' * (part[1] > 1)
        before = runner.message_hub.runtime_info.get('photographs_on')
        if before not in (None, place):
            runner.logger.warning(
                f'The photographs are on {place}, but were on {before} before '
                'this run was resumed, by the memory that is free: the order '
                'and the draws from here on are others than they would have '
                'been')
        runner.message_hub.update_info('photographs_on', place)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the loader the epoch, which the draws depend on."""
        if self._loader is not None:
            self._loader.epoch = runner.epoch


def free_bytes(device: torch.device) -> int:
    """Memory of a device that is free, in bytes."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    if device.type != 'cpu':
        raise UserError("default_hooks.device_data.device must be 'cuda' or "
                        f"'cpu', but is {device.type!r}")
    free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    if os.path.isfile('/proc/meminfo'):
        with open('/proc/meminfo') as file:
            lines = dict(line.split(':') for line in file)
        # Memory held by caches is also free.
        free = 1024 * int(lines['MemAvailable'].split()[0])
    return min([free, *_left_of_group()])


def _left_of_group() -> list[int]:
    """What the limit of a container leaves, if there is one."""
    folder, left = '/sys/fs/cgroup', []
    for limit, used, stat, cached in (
        ('memory.max', 'memory.current', 'memory.stat', 'inactive_file'),
        ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes',
         'memory/memory.stat', 'total_inactive_file')):
        try:
            with open(f'{folder}/{limit}') as most, open(
                    f'{folder}/{used}') as now, open(
                        f'{folder}/{stat}') as lines:
                kinds = dict(line.split() for line in lines)
                # Cached files that are not in use can be dropped.
                left.append(int(most.read()) - int(now.read())
                            + int(kinds.get(cached, 0)))
        except (OSError, ValueError):  # not there, or 'max'
            continue
    return left


def _shared_laws(dataset: Any) -> list[ViewLaw]:
    """The distributions of the views, which all wrapped data sets share."""
    found = [laws_of(leaf.pipeline.transforms) for leaf in leaves(dataset)]
    if any(laws != found[0] for laws in found):
        raise UserError(
            'data_on_device=True draws all photographs by one pipeline, but '
            'the data sets of train_dataloader.dataset have several: give '
            'them the same')
    return found[0]


def _rounds_side(runner: Runner) -> int:
    """The long side at which mask rounds read photographs, 0 if not set."""
    sources = [
        source for hook in runner.hooks
        for source in (getattr(hook, 'source_cfg', None),
                       getattr(hook, 'initial_cfg', None)) if source
    ]
    return max((_long_side(source) or 0 for source in sources), default=0)


def _long_side(source: dict) -> int | None:
    """The setting of a source of masks, or its default."""
    if 'long_side' in source:
        return source['long_side']
    options = signature(TASK_UTILS.get(source['type'])).parameters
    return options['long_side'].default if 'long_side' in options else None


def _gigabytes(number: int) -> str:
    return (f'{number / 1e9:.1f} GB' if number >= 1e8 else
            f'{number / 1e6:.1f} MB')
