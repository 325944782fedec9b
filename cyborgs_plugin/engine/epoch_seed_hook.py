"""The same random numbers and images in a resumed run."""
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from torch import Tensor
from torch.utils.data import get_worker_info

from ..segmentation.ranks import main_seed
from .image_order import begin_order, resume_order

_LOADING, _TRAINING = range(2)
_SEEN = 'images_of_epoch'


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Give a resumed run the same images and random numbers.

    Checkpoints hold no state of random generators, and that of persistent data
    workers cannot be read. So this hook seeds the generators for each batch
    that is loaded, and for each step, by the run's seed, the rank, the epoch
    and the position of the batch in it. The number of workers changes nothing.

    A checkpoint from within an epoch (``by_epoch=False``) records how many
    images of the epoch were seen. The resumed run trains on the others, in the
    same order; mmengine would restart the epoch. With another number of
    processes, or another batch size, the same images remain as far as they
    fill whole batches.

    It also records the settings of an order in windows of tar files
    (``SceneSampler.window``). Other settings, or other tar files, are refused
    within an epoch and warned of between two.
    """

    def before_train(self, runner: Runner) -> None:
        """Tell the data workers the epoch."""
        loader = runner.train_loop.dataloader
        self._key = (runner.seed, get_rank())
        # Without a seed in the config, the checkpoint's is used. With
        # diff_rank_seed the ranks must still divide one common order.
        loader.sampler.seed = main_seed(runner.seed)
        # Epoch and first batch, which workers see
        self._place = torch.zeros(2, dtype=torch.int64).share_memory_()
        loader.worker_init_fn = _WorkerSeeds(loader.worker_init_fn, self._key,
                                             self._place)
        self._rest: _Rest | None = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed an epoch; a resumed run may have seen a part of it."""
        first = 0
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            if self._rest is None:  # the loader is what it stays
                loader = runner.train_loop.dataloader
                self._rest = _Rest(
                    loader.batch_sampler,
                    None if loader.num_workers else self._seed_loading)
                # DataLoader would refuse it after it was made.
                object.__setattr__(loader, 'batch_sampler', self._rest)
                first = self._first(runner, self._rest)
                resume_order(runner, loader.sampler,
                             0 < first < len(self._rest.batches))
            else:
                begin_order(runner, runner.train_loop.dataloader.sampler)
            self._rest.first = first
        self._place.copy_(torch.tensor([runner.epoch, first]))
        self._seed_loading(0)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """Seed a step."""
        _seed(*self._key, *self._at(batch_idx), _TRAINING)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        """Record how many images of the epoch were seen."""
        if self._rest is None:  # one epoch without end
            self._seed_loading(batch_idx + 1)
        else:
            seen = self._at(batch_idx + 1)[1] * self._rest.images
            runner.message_hub.update_info(_SEEN, seen)

    def after_train_epoch(self, runner: Runner) -> None:
        """Record that no image of the next epoch was seen."""
        runner.message_hub.update_info(_SEEN, 0)

    def _seed_loading(self, batch_idx: int) -> None:
        """Seed the loading of a batch in this process."""
        _seed(*self._key, *self._at(batch_idx), _LOADING)

    def _at(self, batch_idx: int) -> tuple[int, int]:
        """Epoch and the position of a batch in the whole epoch."""
        epoch, first = self._place.tolist()
        return epoch, first + batch_idx

    @staticmethod
    def _first(runner: Runner, rest: '_Rest') -> int:
        """The number of batches of the epoch that a resumed run has seen."""
        number = len(rest.batches)
        seen = runner.message_hub.runtime_info.get(_SEEN, 0)
        if _SEEN not in runner.message_hub.runtime_info and (
                runner.iter > runner.epoch * number):
            runner.logger.warning(
                'The checkpoint does not say how much of an epoch it has '
                f'seen: epoch {runner.epoch + 1} starts over')
        first, twice = divmod(seen, rest.images)
        first = min(first, number)
        if not first:
            return 0
        runner.logger.info(
            f'Resuming within epoch {runner.epoch + 1}: {seen} of its images '
            f'were seen, {number - first} of {number} batches remain'
            + f' ({twice} images are seen again)' * bool(twice))
        return first


class _Rest:
    """The batches of an epoch from a given position on."""

    def __init__(self, batches: Any,
                 begin: Callable[[int], None] | None) -> None:
        self.batches = batches
        self.begin = begin  # is called before each is loaded
        self.first = 0
        self.images = getattr(batches, 'batch_size', 1) * get_world_size()

    def __iter__(self) -> Iterator[list[int]]:
        rest = islice(iter(self.batches), self.first, None)
        for number, batch in enumerate(rest):
            if self.begin is not None:
                self.begin(number)
            yield batch

    def __len__(self) -> int:
        return len(self.batches) - self.first

    def __getattr__(self, name: str) -> Any:
        """Other attributes of batch samplers, such as ``sampler``."""
        if name == 'batches':  # while it is copied
            raise AttributeError(name)
        return getattr(self.batches, name)


class _WorkerSeeds:
    """Seeds a data worker for each batch that it loads."""

    def __init__(self, before: Callable[[int], None] | None,
                 key: tuple[int, int], place: Tensor) -> None:
        self.before = before
        self.key = key
        self.place = place  # in shared memory

    def __call__(self, worker_id: int) -> None:
        if self.before is not None:
            self.before(worker_id)
        worker: Any = get_worker_info()
        dataset = worker.dataset
        fetch = getattr(dataset, '__getitems__', None) or (
            lambda indices: [dataset[index] for index in indices])
        loading, batch = -1, 0

        def fetch_seeded(indices: list[int]) -> list:
            nonlocal loading, batch
            epoch, first = self.place.tolist()
            if epoch != loading:  # workers take batches in turn
                loading, batch = epoch, first + worker_id
            _seed(*self.key, epoch, batch, _LOADING)
            batch += worker.num_workers
            return fetch(indices)

        # torch uses this to ask a data set for whole batches. Set on the
        # worker's own copy.
        dataset.__getitems__ = fetch_seeded


def _seed(*key: int) -> None:
    """Seed all generators that transforms and models draw from."""
    state = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    torch.manual_seed(int(state[2]))
