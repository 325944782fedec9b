"""A mask round: images to label maps to a published ``MaskBank`` round."""
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.utils import ProgressBar

from ..datasets.image_io import BrokenImageError, read_image
from ..datasets.keys import SortedKeys
from ..datasets.mask_arrays import MaskBankWriter
from ..datasets.mask_bank import (
    MaskBank,
    clear_leftovers,
    give_up_round,
    is_given_up,
    publish_blocks,
    publish_round,
    round_path,
)
from ..datasets.mask_blocks import Block, BlockWriter
from ..datasets.mask_files import local
from ..errors import UserError
from .groups import KeyedGroups, ShuffledGroups
from .ranks import MaskRoundError, on_main, together
from .sources import MaskSource

_NAMED = 10
_AHEAD = 16
"""Images that are decoded ahead where groups are smaller."""
ReadArgs = dict[str, Any] | Callable[[int], dict[str, Any]] | None
Pixels = dict[int, Any]
"""What ``preprocess`` of a source gave of the images of a group, by index: the
BGR image itself, (H, W, 3), or more; None for a broken one."""


def own_cores(most: int) -> int:
    """The number of threads of this process that decode images.

    With a GPU it is the process's share of the cores, which have nothing else
    to do in a round; on a CPU it is 2, since the network uses all cores.

    Args:
        most (int): The largest useful number, at least 1.

    Returns:
        int: At least 2.
    """
    if not torch.cuda.is_available():
        return 2
    cores = (len(os.sched_getaffinity(0))
             if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 2)
    # torchrun sets it; slurm gives each process cores of its own
    share = cores // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    return max(2, min(share, most))


def make_round(source: MaskSource,
               images: Sequence[tuple[str, str]],
               root: str,
               mask_round: int,
               seed: int,
               group_size: int = 16,
               previous: MaskBank | None = None,
               read_args: ReadArgs = None,
               decode_threads: int | None = None,
               max_broken: float = 0.1,
               meta: dict[str, Any] | None = None,
               bank_format: int = 2,
               keys: SortedKeys | None = None,
               progress: bool = True) -> MaskBank:
    """Segment all images and publish the label maps as a round.

    Every rank calls it. Which images form a group depends on the seed and the
    round, and on the format of the bank (:class:`KeyedGroups` or, in format 1,
    :class:`ShuffledGroups`), but neither on the number of ranks nor on that of
    threads.

    Args:
        source (MaskSource): The prepared source of the masks.
        images (Sequence[tuple[str, str]]): Key and path of each image.
        root (str): Root of the bank, on a disk that all nodes share or in a
            store.
        mask_round (int): Number of the round.
        seed (int): Seed of the run.
        group_size (int): Number of images that are segmented together.
            Defaults to 16.
        previous (MaskBank, optional): The round before. An image that cannot
            be decoded keeps its map from that round. Defaults to None, a map
            of one region.
        read_args (dict or Callable, optional): Arguments of ``read_image``, or
            a function that returns those of the image at an index. Defaults to
            None.
        decode_threads (int, optional): Threads that decode the next images in
            the background: the next group, or as many as keep all threads
            busy. Defaults to None, :func:`own_cores` of at least 16 images.
        max_broken (float): Largest share of the images, 0 to 1, that may be
            broken. One image may be broken unless this is 0; all only if it is
            1. Defaults to 0.1.
        meta (dict[str, Any], optional): Additional content of the manifest.
            Defaults to None.
        bank_format (int): Format of the round, 1 or 2. Defaults to 2.
        keys (SortedKeys, optional): Keys of the images, of an index that lists
            exactly these. Defaults to None: they are read from ``images``.
        progress (bool): Whether rank 0 shows a bar. Defaults to True.

    Returns:
        MaskBank: The published round.

    Raises:
        MaskRoundError: If any rank failed, or too many images are broken. Then
            no round is published.
    """
    if bank_format == 1:
        local(root)
    work = _Work(
        source=source,
        images=images,
        root=root,
        mask_round=mask_round,
        seed=seed,
        group_size=group_size,
        previous=previous,
        read_args=read_args,
        decode_threads=decode_threads or own_cores(
            max(group_size, _AHEAD)),
        max_broken=max_broken,
        bank_format=bank_format,
        keys=keys,
        progress=progress)
    on_main(lambda: clear_leftovers(root))
    done = together(work.segment)
    # Training cannot use memory blocks of photographs' sizes.
    torch.cuda.empty_cache()
    done = _sum(all_gather_object(done))  # all are there by now
    work.check_broken(done)  # on all ranks, of the same sum
    on_main(lambda: work.publish(done, meta or {}))
    bank = together(lambda: MaskBank.open(round_path(root, mask_round)))
    if done.broken:
        print_log(
            f'{len(done.broken)} of {len(images)} images could not be '
            f'decoded, such as {sorted(done.broken)[:_NAMED]}; the manifest '
            f'of {bank.path} lists them. Training takes others in their place',
            logger='current',
            level=logging.WARNING)
    return bank


@dataclass
class _Done:
    """The part of a round that one rank, or all ranks, have finished."""

    num_images: int = 0
    regions: int = 0
    """Different ids, over all clusterings of all images."""
    clusters: list[int] = field(default_factory=list)
    """K of each group that has a whole image."""
    broken: list[str] = field(default_factory=list)
    """Keys."""
    reasons: list[str] = field(default_factory=list)
    """What is wrong with the first of them."""
    blocks: list[Block] = field(default_factory=list)
    """What was written, in format 2."""


def _sum(parts: Sequence[_Done]) -> _Done:
    """Add up what the ranks have done."""
    total = _Done()
    for part in parts:
        for name, value in vars(part).items():
            setattr(total, name, getattr(total, name) + value)
    return total


@dataclass(kw_only=True)
class _Work:
    """The arguments of :func:`make_round`, and its steps."""

    source: MaskSource
    images: Sequence[tuple[str, str]]
    root: str
    mask_round: int
    seed: int
    group_size: int
    previous: MaskBank | None
    read_args: ReadArgs
    decode_threads: int
    max_broken: float
    bank_format: int
    keys: SortedKeys | None
    progress: bool

    def __post_init__(self) -> None:
        drawn = self.seed, self.mask_round, self.group_size
        self.groups: KeyedGroups | ShuffledGroups = (
            ShuffledGroups(len(self.images), *drawn) if self.bank_format == 1
            else KeyedGroups(
                self.keys or (key for key, _ in self.images), *drawn))

    def segment(self) -> _Done:
        """Write the label maps of this rank's groups."""
        try:
            return self._segment()
        except Exception as error:
            give_up_round(self.root, self.mask_round)
            if isinstance(error, UserError):
                raise MaskRoundError(str(error)) from error
            raise

    def _segment(self) -> _Done:
        done, rank = _Done(), get_rank()
        mine = self.groups.of_rank(rank, get_world_size())
        writer = self._writer(rank)
        shown = self.progress and rank == 0 and len(mine) > 1
        bar = ProgressBar(len(mine)) if shown else None
        for count, (number, pixels) in enumerate(self._decoded(mine, done), 1):
            maps = self._label_maps(number, pixels)
            for index in pixels:
                key, label_map = self.images[index][0], maps[index]
                if isinstance(self.groups, KeyedGroups):
                    writer.add(self.groups.block(number), key, label_map)
                else:
                    writer.add(index, key, label_map)
                done.regions += _num_regions(label_map)
            done.num_images += len(maps)
            # The largest id shows K, since no cluster of a group is empty; the
            # old map of a broken image has ids of another group.
            largest = [
                int(maps[index].max())
                for index, image in pixels.items() if image is not None
            ]
            if largest:
                done.clusters.append(1 + max(largest))
            if self._too_many(done):
                give_up_round(self.root, self.mask_round)
            if is_given_up(self.root, self.mask_round):
                return done  # The rank that gave up says why.
            # A hundred lines if the output is a file.
            if bar is not None and (count == len(mine) or not count % (
                    1 + len(mine) // 100)):
                bar.update(count - bar.completed)
        if bar is not None:
            bar.file.write('\n')
        done.blocks = writer.close() or []
        return done

    def _writer(self, rank: int) -> MaskBankWriter | BlockWriter:
        if isinstance(self.groups, KeyedGroups):
            return BlockWriter(self.root, self.mask_round, self.groups.salt,
                               rank)
        return MaskBankWriter(self.root, self.mask_round, rank)

    def _decoded(self, groups: range,
                 done: _Done) -> Iterator[tuple[int, Pixels]]:
        """Decode the next groups while one is clustered."""
        most = -(-self.decode_threads // self.group_size)
        with ThreadPoolExecutor(self.decode_threads) as pool:

            def start(number: int) -> dict[int, Any]:
                return {
                    index: pool.submit(self._read, index)
                    for index in self.groups.members(number)
                }

            ahead = deque(start(number) for number in groups[:most])
            for count, number in enumerate(groups, len(ahead)):
                pixels: Pixels = {}
                for index, future in ahead.popleft().items():
                    pixels[index], reason = future.result()
                    if reason is not None:
                        done.broken.append(self.images[index][0])
                        if len(done.reasons) < _NAMED:
                            done.reasons.append(reason)
                # No more groups are held in addition to the yielded one.
                if count < len(groups):
                    ahead.append(start(groups[count]))
                yield number, pixels

    def _read(self, index: int) -> tuple[Any, str | None]:
        """The preprocessed image, or the reason why there is none."""
        args = self.read_args
        options = args(index) if callable(args) else args or {}
        try:
            image = read_image(self.images[index][1], **options)
        except BrokenImageError as error:
            print_log(str(error), logger='current', level=logging.WARNING)
            return None, str(error)
        return self.source.preprocess(image), None

    def _label_maps(self, number: int,
                    pixels: Pixels) -> dict[int, np.ndarray]:
        """Label maps of a group by index; broken images keep their old map.

        Each is (h, w) or (V, h, w).
        """
        whole = {i: image for i, image in pixels.items() if image is not None}
        maps: dict[int, np.ndarray] = {}
        if whole:
            keys = [self.images[index][0] for index in whole]
            seed = self.seed, self.mask_round, number
            maps = dict(
                zip(whole,
                    self.source.label_maps(list(whole.values()), keys, seed)))
        for index in pixels.keys() - whole.keys():
            maps[index] = _old_map(self.previous, self.images[index][0],
                                   self.source.num_clusterings)
        return maps

    def _too_many(self, done: _Done) -> bool:
        return len(done.broken) > self._allowed()

    def _allowed(self) -> int:
        """How many images may be broken: one in any case, but not all."""
        allowed = int(self.max_broken * len(self.images))
        if 0 < self.max_broken < 1:
            allowed = min(max(allowed, 1), len(self.images) - 1)
        return allowed

    def check_broken(self, done: _Done) -> None:
        """Refuse to publish a round with too many broken images.

        Raises:
            MaskRoundError: Names the first files and what they look like.
        """
        if self._too_many(done):
            raise MaskRoundError(
                f'{len(done.broken)} of the {done.num_images} images that '
                f'were read for mask round {self.mask_round} cannot be '
                f'decoded; of all {len(self.images)} at most '
                f'{self._allowed()} may be broken '
                f'(default_hooks.mask_update.max_broken={self.max_broken}):'
                '\n  ' + '\n  '.join(done.reasons[:_NAMED]) +
                '\nNo round is published. Fix or remove the files, or set '
                'max_broken higher, up to 1, to train with the others')

    def publish(self, done: _Done, meta: dict[str, Any]) -> None:
        """Publish what the ranks have written as the round."""
        k = done.clusters or [0]  # 0 where no image is whole
        # In this order of division: manifests are compared byte by byte.
        regions = (done.regions / len(self.images)
                   / self.source.num_clusterings)
        counts = dict(groups=self.groups.num_groups, regions=regions,
                      clusters=[min(k), sum(k) / len(k), max(k)])
        meta = dict(meta, seed=self.seed, group_size=self.group_size,
                    broken_images=sorted(done.broken), counts=counts)
        if isinstance(self.groups, KeyedGroups):
            publish_blocks(self.root, self.mask_round, self.groups.layout(),
                           done.blocks, meta)
        else:
            publish_round(self.root, self.mask_round, len(self.images), meta)


def _old_map(previous: MaskBank | None, key: str,
             num_clusterings: int) -> np.ndarray:
    """Maps (V, h, w) of an image in the previous round, else one region."""
    if previous is None or key not in previous:
        return np.zeros((num_clusterings, 1, 1), dtype=np.uint8)
    return np.stack([
        previous.label_map(key, number % previous.num_clusterings)
        for number in range(num_clusterings)
    ])


def _num_regions(label_map: np.ndarray) -> int:
    """Number of different ids, summed over the clusterings of an image."""
    clusterings = label_map.reshape(-1, *label_map.shape[-2:])
    return sum(np.count_nonzero(np.bincount(ids.ravel()))
               for ids in clusterings)
