"""Random numbers that a resumed run draws again."""
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor
from torch.utils.data import get_worker_info

from ..segmentation.ranks import main_seed

# What is drawn in the training process: while its first batch is made, which
# is all of loading without workers, and from the first step on.
_LOADING, _TRAINING, _WORKER = range(3)


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Let the random numbers of an epoch depend on nothing before it.

    Checkpoints hold no state of random generators, and data workers that
    persist cannot be asked for theirs. Here each epoch begins with
    generators seeded by the run's seed, the epoch, the rank and the worker:
    a run that is resumed between two epochs, with as many processes and
    workers, draws what an uninterrupted one draws.
    """

    def before_train(self, runner: Runner) -> None:
        """Let the data workers know of epochs."""
        loader = runner.train_loop.dataloader
        self._key = (runner.seed, get_rank())
        # Without a seed in the config it is that of the checkpoint. With
        # diff_rank_seed the ranks must still share out one order.
        loader.sampler.seed = main_seed(runner.seed)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        loader.worker_init_fn = _WorkerSeeds(loader.worker_init_fn, self._key,
                                             self._epoch)

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed an epoch."""
        self._epoch.fill_(runner.epoch)
        _seed(*self._key, runner.epoch, _LOADING)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: dict | None = None) -> None:
        """Seed once more: workers that start draw a number of this process."""
        if batch_idx == 0:
            _seed(*self._key, runner.epoch, _TRAINING)


class _WorkerSeeds:
    """Seeds a data worker with each epoch that it meets."""

    def __init__(self, before: Callable[[int], None] | None,
                 key: tuple[int, int], epoch: Tensor) -> None:
        self.before = before
        self.key = key
        self.epoch = epoch  # in shared memory

    def __call__(self, worker_id: int) -> None:
        if self.before is not None:
            self.before(worker_id)
        worker: Any = get_worker_info()
        dataset = worker.dataset
        fetch = getattr(dataset, '__getitems__', None) or (
            lambda indices: [dataset[index] for index in indices])
        seeded = -1

        def fetch_seeded(indices: list[int]) -> list:
            nonlocal seeded
            epoch = int(self.epoch)
            if epoch != seeded:
                _seed(*self.key, epoch, _WORKER, worker_id)
                seeded = epoch
            return fetch(indices)

        # torch asks a data set for whole batches by this. Set on the worker's
        # own copy.
        dataset.__getitems__ = fetch_seeded


def _seed(*key: int) -> None:
    """Seed all generators that transforms and models draw from."""
    state = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    torch.manual_seed(int(state[2]))
