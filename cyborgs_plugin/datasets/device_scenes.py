"""Photographs that are decoded once and stay on the device.

:class:`HeldImages` keeps them there; :class:`DeviceLoader` makes batches of
them and replaces the data loader. docs/performance.md shows how much time that
saves.
"""
import logging
import os.path as osp
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from PIL import Image
from torch import Tensor
from torch.utils.data import Sampler

from ..errors import UserError
from ..ops.batch_views import Drawn, make_views
from ..ops.view_draws import ViewLaw, draw_views, draws
from .image_io import BrokenImageError, header_size, read_image
from .mask_bank import MaskBank
from .scene_dataset import scene_datasets
from .shards import parse_address

_NAMED = 5  # number of files in a message


class HeldImages:
    """Photographs as bytes on a device, each up to a maximum size.

    Args:
        images (Sequence[tuple[str, dict]]): Path of each, and the arguments
            with which ``read_image`` reads it.
        device (torch.device): Where they are kept.
        side (int): Larger ones are reduced to this long side, bicubic.
        threads (int): Threads that decode. Defaults to 4.

    Attributes:
        num_bytes (int): Their total size; known before they are decoded.
    """

    def __init__(self,
                 images: Sequence[tuple[str, dict]],
                 device: torch.device,
                 side: int,
                 threads: int = 4) -> None:
        self._images = images
        self._device = device
        self._side = side
        self._threads = threads
        with ThreadPoolExecutor(threads) as pool:
            sizes = list(pool.map(_size, images))
        self._sizes = np.array(
            [_reduced(size, side) for size in sizes],
            dtype=np.int64).reshape(-1, 2)
        lengths = 3 * self._sizes.prod(1)
        self._starts = lengths.cumsum() - lengths
        # Reading the last photograph's rows goes beyond its end.
        self.num_bytes = int(lengths.sum()) + 3 * side
        self._rows = {path: row for row, (path, _) in enumerate(images)}

    def load(self) -> None:
        """Decode all of them.

        Raises:
            UserError: If all are broken.
        """
        self.pixels = torch.zeros(
            self.num_bytes, dtype=torch.uint8, device=self._device)
        places = np.zeros((len(self._images), 3), dtype=np.int64)
        broken = []
        with ThreadPoolExecutor(self._threads) as pool:
            # A few at a time, because decoded images wait in memory.
            step = 8 * self._threads
            for first in range(0, len(self._images), step):
                rows = range(first, min(first + step, len(self._images)))
                for row, image in zip(rows, pool.map(self._read, rows)):
                    if isinstance(image, BrokenImageError):
                        broken.append(image)
                        continue
                    start = int(self._starts[row])
                    self.pixels[start:start + image.size] = torch.from_numpy(
                        image.reshape(-1)).to(self._device)
                    places[row] = start, *image.shape[:2]
        for error in broken[:_NAMED]:
            print_log(
                f'Another image replaces a broken one: {error}',
                logger='current',
                level=logging.WARNING)
        self.places = places
        """Start in ``pixels``, height and width, (N, 3); 0 of broken ones."""
        self.whole = np.flatnonzero(places[:, 1])
        """Rows of those that are not broken."""
        if not len(self.whole):
            raise UserError(f'All {len(self._images)} images are broken: '
                            f'{broken[0]}')

    def image(self, path: str) -> np.ndarray | None:
        """Return a photograph as a copy that may be changed.

        Args:
            path (str): Its file.

        Returns:
            np.ndarray: BGR, (H, W, 3), uint8; None if it is broken or not
            held.
        """
        row = self._rows.get(path)
        if row is None:
            return None
        start, height, width = self.places[row].tolist()
        if not height:
            return None
        pixels = self.pixels[start:start + 3 * height * width]
        return pixels.cpu().numpy().reshape(height, width, 3).copy()

    def _read(self, row: int) -> np.ndarray | BrokenImageError:
        """A photograph (H, W, 3) as it is kept, or why it is broken."""
        path, options = self._images[row]
        try:
            image = read_image(path, **options)
        except BrokenImageError as error:
            return error
        size = _reduced(image.shape[:2], self._side)
        if sorted(size) != sorted(self._sizes[row].tolist()):
            return BrokenImageError(
                f'{path}: its header and its pixels differ in size')
        if size == image.shape[:2]:
            return np.ascontiguousarray(image)
        picture = Image.fromarray(image).resize(
            size[::-1], Image.Resampling.BICUBIC)
        return np.array(picture)


def _size(image: tuple[str, dict]) -> tuple[int, int]:
    """Height and width of an image, which may lie on its side."""
    path, options = image
    # A file of its own on a local disk, where the header is enough.
    if parse_address(path) is None and isinstance(
            get_file_backend(
                path,
                backend_args=options.get('backend_args'),
                enable_singleton=True), LocalBackend) and osp.isfile(path):
        size = header_size(path)
        if any(size):
            return size
    try:
        height, width = read_image(path, **options).shape[:2]
    except BrokenImageError:
        return 0, 0
    return height, width


def _reduced(size: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width at a long side, if an image is larger."""
    scale = min(1., side / max(*size, 1))
    height, width = (max(1, round(scale * length)) if length else 0
                     for length in size)
    return height, width


class DeviceLoader:
    """Batches of views, made on the device that holds the photographs.

    It replaces a ``DataLoader`` and uses the same data set and the same
    sampler, so the order is the same (except for parts of the data). Its
    batches have the same form: ``inputs`` (V views, (B, 3, H, W), uint8, BGR)
    and ``data_samples``, whose ``mask`` has the label maps (V, H, W). The
    random numbers for a photograph depend only on seed, epoch and key.

    Args:
        loader (DataLoader): The ordinary loader.
        laws (Sequence[ViewLaw]): Distributions of the views in its pipeline.
        device (torch.device): Where the photographs are kept.
        side (int): See :class:`HeldImages`.
        seed (int): Seed of the run.
        part (tuple[int, int]): Index of this process and number of processes
            that share the photographs. Each holds and sees its own part, by
            the order of the keys. Defaults to (0, 1), all.

    Attributes:
        epoch (int): The current epoch; the caller sets it.
        part (tuple[int, int]): As given.
    """

    def __init__(self, loader: Any, laws: Sequence[ViewLaw],
                 device: torch.device, side: int, seed: int,
                 part: tuple[int, int] = (0, 1)) -> None:
        self._loader = loader
        self._laws = laws
        self._seed = seed
        self.part = part
        self.epoch = 0
        self.dataset = loader.dataset
        self.sampler = loader.sampler
        self.batch_sampler = loader.batch_sampler
        self._iterator = None  # what others reset to restart workers
        self._entries = list(_entries(self.dataset))
        names = [entry.name for entry in self._entries]
        own = sorted(range(len(names)), key=names.__getitem__)
        own = sorted(own[part[0]::part[1]])
        if not own:
            raise UserError(
                f'{len(names)} photographs are too few for {part[1]} '
                'processes that hold a part each: start fewer processes, or '
                'leave out data_on_device=True')
        if part[1] > 1:
            self.sampler = PartSampler(loader.sampler, own)
            self.batch_sampler = type(loader.batch_sampler)(
                self.sampler, loader.batch_sampler.batch_size,
                loader.batch_sampler.drop_last)
        images = {
            self._entries[index].path: self._entries[index].leaf
            for index in own
        }
        rows = {path: row for row, path in enumerate(images)}
        self._row = np.array(
            [rows.get(entry.path, -1) for entry in self._entries])
        self.held = HeldImages(
            [(path, dict(getattr(leaf, 'read_args', {}), held=None))
             for path, leaf in images.items()], device, side)
        self._banks: list[MaskBank | None] = []
        self._labels: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        """Other attributes of the ordinary loader, such as ``batch_size``."""
        return getattr(self.__dict__['_loader'], name)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict]:
        self._read_masks()
        for indices in self.batch_sampler:
            yield self.batch(indices)

    def load(self) -> None:
        """Decode the photographs."""
        self.held.load()
        self._whole = np.flatnonzero(
            (self._row >= 0) & (self.held.places[self._row, 1] > 0))
        for scenes in scene_datasets(self.dataset):
            scenes.held_image = self.held.image

    def batch(self, indices: Sequence[int]) -> dict:
        """Make the batch of some photographs.

        Args:
            indices (Sequence[int]): Their indices in the data set.
        """
        numbers = [2, *(law.num_draws for law in self._laws)]
        drawn = draws(self._seed, self.epoch,
                      [self._entries[index].name for index in indices],
                      sum(numbers))
        choice, *parts = np.split(drawn, np.cumsum(numbers)[:-1], axis=1)
        index = self._unbroken(np.asarray(indices), choice[:, 0])
        places = self.held.places[self._row[index]]
        maps = self._maps(index, choice[:, 1])
        kinds = []
        for law, part in zip(self._laws, parts):
            boxes, flips, colours = draw_views(law, part, places[:, 1:])
            crops = np.concatenate([places, boxes, flips[:, None], maps], 1)
            kinds.append(Drawn(law, crops, colours))
        views, masks = make_views(self.held.pixels, self._labels, kinds)
        samples = [DataSample() for _ in indices]
        if masks:
            for sample, mask in zip(samples, torch.stack(masks, 1).unbind(0)):
                sample.set_mask(mask)
        return dict(inputs=views, data_samples=samples)

    def _unbroken(self, index: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Replace broken photographs by others, drawn at random."""
        whole = self._whole
        broken = self.held.places[self._row[index], 1] == 0
        return np.where(broken, whole[(drawn * len(whole)).astype(int)],
                        index)

    def _maps(self, index: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Start, height and width of a label map of each, (N, 3)."""
        if self._labels is None:
            return np.zeros((len(index), 3), dtype=np.int64)
        start, height, width, number = self._places[index].T
        start = start + (drawn * number).astype(int) * height * width
        return np.stack([start, height, width], 1)

    def _read_masks(self) -> None:
        """Copy the label maps of a new round to the device."""
        scenes = [part for part in scene_datasets(self.dataset)
                  if part.with_masks]
        banks = [part.mask_bank for part in scenes]
        if not scenes or banks == self._banks:
            return
        maps: list[np.ndarray] = []
        places, known, start = [], {}, 0
        for entry, row in zip(self._entries, self._row):
            if row < 0:  # another process holds it
                places.append((0, 0, 0, 0))
                continue
            if entry.path not in known:
                stack = entry.leaf.label_maps(entry.key)
                known[entry.path] = (start, *stack[0].shape, len(stack))
                maps += [label_map.ravel() for label_map in stack]
                start += sum(label_map.size for label_map in stack)
            places.append(known[entry.path])
        labels = np.concatenate(maps)
        # torch can store uint16 but hardly compute with it.
        if labels.dtype == np.uint16:
            labels = labels.astype(np.int32)
        self._labels = torch.from_numpy(labels).to(self.held.pixels.device)
        self._places = np.array(places, dtype=np.int64)
        self._banks = banks


class PartSampler(Sampler):
    """The photographs of one process, in a new order in each epoch.

    Args:
        sampler (DefaultSampler): The sampler of all photographs, which
            provides seed, length and ``shuffle``.
        indices (Sequence[int]): Indices of the photographs of this process.
    """

    def __init__(self, sampler: Any, indices: Sequence[int]) -> None:
        self.seed = sampler.seed
        self.epoch = 0
        self._shuffle = sampler.shuffle
        self._length = len(sampler)
        self._indices = np.asarray(indices)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        order = self._indices
        if self._shuffle:
            order = np.random.default_rng(
                [self.seed, self.epoch]).permutation(order)
        # The same number for all processes.
        yield from np.resize(order, self._length).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Draw another order."""
        self.epoch = epoch


@dataclass
class _Entry:
    """A photograph of a data set."""

    leaf: Any
    """The data set that lists it, within wrappers."""
    path: str
    key: str
    name: str
    """What its draws depend on: the key, and the how manieth time it comes
    where it is repeated."""


def _entries(dataset: Any) -> Iterator[_Entry]:
    """The photographs of a data set, wrapped any number of times."""
    times: Counter[str] = Counter()
    for index in range(len(dataset)):
        leaf, place = dataset, index
        while hasattr(leaf, '_get_ori_dataset_idx'):  # mmengine's wrappers
            place = leaf._get_ori_dataset_idx(place)
            if isinstance(place, tuple):
                part, place = place
                leaf = leaf.datasets[part]
            else:
                leaf = leaf.dataset
        info = leaf.get_data_info(place)
        path = info['img_path']
        key = info.get('key') or path.removeprefix(
            leaf.data_prefix.get('img_path', ''))
        name = f'{key}#{times[path]}' if times[path] else key
        times[path] += 1
        yield _Entry(leaf, path, key, name)
