"""The order of the images in an epoch, without a list of all of them."""
import hashlib
import os
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dataset import ConcatDataset, DefaultSampler
from mmpretrain.registry import DATA_SAMPLERS

from ..errors import UserError
from .scene_dataset import SceneDataset, scene_datasets

_PART = 1 << 16  # images that are handed out at once
_STEP = 1 << 20
_KEY = 'train_dataloader.sampler'


@DATA_SAMPLERS.register_module()
class SceneSampler(DefaultSampler):
    """Images in a new order in each epoch, in full or within a few tar files.

    Without ``window``, the order is that of mmengine's ``DefaultSampler``,
    image by image, in 4 bytes per image instead of a Python list.

    With it, an epoch draws an order of the tar files, divides it into as many
    equal parts as there are processes, and each process shuffles ``window``
    tar files at a time, from the first of its part to the last. So a process
    reads from few files at any time, and a cache that keeps these reads each
    file once per epoch. All draws depend on seed and epoch only. Each epoch
    has all images, once. The table of the tar files takes 4 bytes per image
    and process.

    Processes take different tar files because those of a machine share its
    cache, and all machines would read every file if each process took its
    share of every window. Processes of a machine have consecutive ranks, so
    with M machines each reads an M-th of the bytes. A file at a border between
    two parts is divided, and both processes read from it. Lengths differ by
    one image at most; as in ``DefaultSampler``, ``round_up`` repeats images
    from the beginning of the order.

    docs/data.md shows how far this is from a full shuffle.

    Args:
        dataset (Sized): The data set. With ``window``, a ``SceneDataset`` by
            an index of tar files, or a ``ConcatDataset`` of such.
        shuffle (bool): Draw an order; otherwise that of the data set.
            Defaults to True.
        seed (int, optional): The same on all processes. Defaults to None, one
            that they agree on.
        round_up (bool): Repeat images so that all processes have the same
            number. Defaults to True.
        window (int, optional): How many tar files each process shuffles
            together. Defaults to None: all images, as for files on a local
            disk.

    Attributes:
        streams (int): Number of parts of an epoch's order. It is the number
            of processes unless a run that is resumed within an epoch had
            another one: position p of the order is the next image of part p
            modulo ``streams``, so that images remain the same.
    """

    def __init__(self,
                 dataset: Sized,
                 shuffle: bool = True,
                 seed: int | None = None,
                 round_up: bool = True,
                 window: int | None = None) -> None:
        if window is not None:
            _check_window(window, shuffle)
        for scenes in scene_datasets(dataset):
            if scenes.cache_tars:
                _check_room(scenes, window)
        super().__init__(dataset, shuffle, seed, round_up)
        self.window = window
        self.streams = self.world_size
        self._shards = None if window is None else _Shards(
            shard_numbers(dataset))

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint records of the order: empty for a full shuffle."""
        if self._shards is None:
            return {}
        return dict(window=self.window, streams=self.streams,
                    shards=self._shards.fingerprint)

    def __iter__(self) -> Iterator[int]:
        """The images of this process in this epoch."""
        order, count = self._order(), len(self.dataset)
        step = self.world_size * _PART
        for first in range(self.rank, self.total_size, step):
            places = np.arange(first, min(first + step, self.total_size),
                               self.world_size) % count
            yield from (places if order is None else order[places]).tolist()

    def _order(self) -> Any:
        """What gives images by their places in the order; None: places."""
        if self._shards is not None and self.window is not None:
            return _Windows(self._shards, self.window, self.streams,
                            (self.seed, self.epoch))
        if not self.shuffle:
            return None
        count = len(self.dataset)
        generator = torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        # The same draws as of int64, which DefaultSampler makes.
        small = torch.int32 if count < 1 << 31 else torch.int64
        return torch.randperm(count, generator=generator, dtype=small).numpy()


def shard_numbers(dataset: Any) -> np.ndarray:
    """The tar file of each image of a data set.

    Args:
        dataset (Dataset): A data set with ``shard_numbers``, such as
            ``SceneDataset``, or several that ``ConcatDataset`` joins.

    Returns:
        np.ndarray: A number for each image, (N, ) int32.

    Raises:
        UserError: If the images are not in tar files, or the data set is of
            another type.
    """
    if isinstance(dataset, ConcatDataset):
        parts, first = [], 0
        for part in map(shard_numbers, dataset.datasets):
            parts.append(part + first)
            first = int(parts[-1].max()) + 1
        return np.concatenate(parts)
    if not hasattr(dataset, 'shard_numbers'):
        raise UserError(
            f'{_KEY}.window orders images by their tar files, which '
            f'train_dataloader.dataset of type {type(dataset).__name__} does '
            'not tell: use SceneDataset, or leave out window')
    numbers = dataset.shard_numbers
    if numbers is None:
        raise UserError(
            f'{_KEY}.window orders photographs by their tar files, but those '
            f'of {dataset.where} are files of their own: leave out window, '
            'which shuffles all of them, or pack them into tar files and name '
            'their index by train_dataloader.dataset.index')
    return numbers


def _check_window(window: int, shuffle: bool) -> None:
    """Refuse a window that is no number of tar files, or has no use."""
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise UserError(f'{_KEY}.window must be a number of tar files, 1 or '
                        f'more, but is {window!r}')
    if not shuffle:
        raise UserError(
            f'{_KEY}.shuffle=False keeps the order of the data set, but '
            f'window={window} shuffles: leave out one of the two')


def _check_room(scenes: SceneDataset, window: int | None) -> None:
    """Refuse a cache that would fetch tar files again and again."""
    if window is None:
        raise UserError(
            'train_dataloader.dataset.cache_tars=True fetches whole tar '
            'files, but a full shuffle reads from all of them at any time: '
            f'set {_KEY}.window, or leave out cache_tars')
    if scenes.index is None:
        return
    sizes = [size for _, size in scenes.index.manifest['shards']]
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    needs = processes * min(window, len(sizes)) * float(np.mean(sizes)) / 1e9
    if needs > scenes.cache_gb:
        raise UserError(
            f'{_KEY}.window={window} reads from {window} tar files at a time '
            f'in each of {processes} processes of this machine, {needs:.3g} '
            'GB on average, but train_dataloader.dataset.cache_gb='
            f'{scenes.cache_gb:g} keeps less: give it twice as much, or take '
            'a smaller window')


class _Shards:
    """The images of each tar file.

    Args:
        numbers (np.ndarray): The tar file of each image, (N, ) int32.

    Attributes:
        rows (np.ndarray): Images, file by file, (N, ) uint32 or int64.
        edges (np.ndarray): Where the images of each file begin in ``rows``,
            and the end of the last, (S + 1, ) int64. No file is empty.
        fingerprint (str): SHA-256 of ``numbers``.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        count, files = len(numbers), int(numbers.max()) + 1
        digest = hashlib.sha256()
        sizes = np.zeros(files, np.int64)
        parts = range(0, count, _STEP)  # so that little else is in memory
        for first in parts:
            part = np.ascontiguousarray(numbers[first:first + _STEP], '<i4')
            digest.update(part.tobytes())
            sizes += np.bincount(part, minlength=files)
        self.fingerprint = digest.hexdigest()
        ends = sizes.cumsum()
        free = ends - sizes  # where the next image of each file goes
        self.rows = np.empty(
            count, np.uint32 if count <= 1 << 32 else np.int64)
        for first in parts:
            part = numbers[first:first + _STEP]
            added = np.bincount(part, minlength=files)
            before = added.cumsum() - added
            places = np.arange(len(part)) + np.repeat(free - before, added)
            self.rows[places] = first + part.argsort(kind='stable')
            free += added
        self.edges = np.concatenate([[0], ends[sizes > 0]])


class _Windows:
    """The order of an epoch, drawn window by window as it is asked for.

    Args:
        shards (_Shards): The images of each tar file.
        window (int): How many tar files are shuffled together, at most.
        streams (int): Number of parts, whose images take turns.
        key (tuple[int, int]): Seed and epoch.
    """

    def __init__(self, shards: _Shards, window: int, streams: int,
                 key: tuple[int, int]) -> None:
        self._shards = shards
        self._window = window
        self._streams = streams
        self._key = key
        self._files = np.random.default_rng(key).permutation(
            len(shards.edges) - 1)
        sizes = np.diff(shards.edges)[self._files]
        # Where each file begins if they are laid end to end in this order
        self._edges = np.concatenate([[0], sizes.cumsum()])
        count = int(self._edges[-1])
        each, more = divmod(count, streams)
        # ... and where each part does; the first ones have one image more.
        self._cuts = [each * stream + min(stream, more)
                      for stream in range(streams + 1)]
        self._drawn: dict[int, tuple[int, np.ndarray]] = {}

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Images at places in the order of all processes, (n, ) int64."""
        turns, streams = np.divmod(places, self._streams)
        found = np.empty_like(places)
        for stream in np.unique(streams).tolist():
            own = streams == stream
            found[own] = self._of_stream(stream, turns[own])
        return found

    def _of_stream(self, stream: int, turns: np.ndarray) -> np.ndarray:
        """Images of a part, by their places in it."""
        edges = self._windows(stream)
        places = turns + self._cuts[stream]
        windows = edges.searchsorted(places, 'right') - 1
        found = np.empty_like(places)
        for window in np.unique(windows).tolist():
            own = windows == window
            images = self._images(stream, window, *edges[window:window + 2])
            found[own] = images[places[own] - edges[window]]
        return found

    def _windows(self, stream: int) -> np.ndarray:
        """Edges of the windows of a part: nearly the same number of files."""
        start, stop = self._cuts[stream:stream + 2]
        first = int(self._edges.searchsorted(start, 'right')) - 1
        last = int(self._edges.searchsorted(stop))  # the first file behind
        number = -(-(last - first) // self._window)
        chosen = first + np.arange(number + 1) * (last - first) // number
        return self._edges[chosen].clip(start, stop)

    def _images(self, stream: int, window: int, start: int,
                stop: int) -> np.ndarray:
        """The shuffled images of a window; the last of each part is kept."""
        drawn, images = self._drawn.get(stream, (-1, None))
        if images is None or drawn != window:
            # A longer key alone would not do: zeros at its end change nothing.
            seed = np.random.SeedSequence(
                self._key, spawn_key=(stream, window))
            images = np.random.default_rng(seed).permutation(
                self._between(start, stop))
            self._drawn[stream] = window, images
        return images

    def _between(self, start: int, stop: int) -> np.ndarray:
        """Images of the files that lie end to end, from start to stop."""
        first = int(self._edges.searchsorted(start, 'right')) - 1
        last = int(self._edges.searchsorted(stop))
        parts = []
        for place in range(first, last):
            begin = self._shards.edges[self._files[place]]
            here = self._edges[place]
            parts.append(self._shards.rows[
                begin + max(start - here, 0):
                begin + min(stop, self._edges[place + 1]) - here])
        return np.concatenate(parts)
