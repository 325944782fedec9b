"""A mask round: images to label maps to a published ``MaskBank`` round."""
import logging
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.dist import (
    all_gather_object,
    barrier,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.logging import print_log
from mmengine.utils import ProgressBar

from ..datasets.image_io import BrokenImageError, read_image
from ..datasets.mask_bank import (
    MaskBank,
    MaskBankWriter,
    clear_leftovers,
    publish_round,
    round_path,
)
from .sources import MaskSource

_NAMED = 10


class MaskRoundError(RuntimeError):
    """A mask round failed on some rank; raised on all of them."""


def make_round(source: MaskSource,
               images: Sequence[Tuple[str, str]],
               root: str,
               mask_round: int,
               seed: int,
               group_size: int = 16,
               previous: Optional[MaskBank] = None,
               backend_args: Optional[dict] = None,
               decode_threads: int = 2,
               meta: Optional[Dict[str, Any]] = None) -> MaskBank:
    """Segment all images and publish the label maps as a round.

    Every rank calls it. Images are dealt into groups by a permutation that
    depends on the seed and the round, and groups to ranks in turn, so that
    neither the number of ranks nor that of threads changes a group.

    Args:
        source (MaskSource): Where the masks come from, prepared.
        images (Sequence[Tuple[str, str]]): Key and path of each image.
        root (str): Root of the bank, on a disk that all nodes share.
        mask_round (int): Number of the round.
        seed (int): Seed of the run.
        group_size (int): Images that are segmented together.
            Defaults to 16.
        previous (MaskBank, optional): The round before: an image that cannot
            be decoded keeps its map of that round. Defaults to None, a map
            of one region.
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.
        decode_threads (int): Threads that decode the next group meanwhile.
            Defaults to 2.
        meta (Dict[str, Any], optional): What else the manifest shall hold.
            Defaults to None.

    Returns:
        MaskBank: The published round.

    Raises:
        MaskRoundError: If any rank failed. No round is published then.
    """
    start = time.perf_counter()
    order = np.random.default_rng([seed, mask_round]).permutation(len(images))
    groups = [
        order[first:first + group_size]
        for first in range(0, len(order), group_size)
    ]
    rank, world_size = get_rank(), get_world_size()
    together(lambda: clear_leftovers(root) if rank == 0 else None)
    failed: List[str] = []

    def segment() -> None:
        writer = MaskBankWriter(root, mask_round, rank)
        bar = ProgressBar(len(range(rank, len(groups), world_size))) \
            if is_main_process() and len(groups) > world_size else None
        with ThreadPoolExecutor(decode_threads) as pool:

            def decode(number: int) -> Dict[int, Any]:
                return {
                    index: pool.submit(_try_read, images[index][1],
                                       backend_args)
                    for index in groups[number].tolist()
                }

            mine = list(range(rank, len(groups), world_size))
            ahead = decode(mine[0]) if mine else {}
            for number, following in zip(mine, [*mine[1:], None]):
                pixels = {i: future.result() for i, future in ahead.items()}
                if following is not None:
                    ahead = decode(following)
                maps = _segment_group(source, images, pixels,
                                      (seed, mask_round, number), previous,
                                      failed)
                for index, label_map in maps.items():
                    writer.add(index, images[index][0], label_map)
                if bar is not None:
                    bar.update()
        if bar is not None:
            bar.file.write('\n')
        writer.close()

    together(segment)
    failed = sorted(key for part in all_gather_object(failed) for key in part)

    def publish() -> None:
        if rank == 0:
            publish_round(
                root, mask_round, len(images),
                dict(
                    meta or {},
                    seed=seed,
                    group_size=group_size,
                    broken_images=failed))

    together(publish)
    if failed:
        print_log(
            f'{len(failed)} of {len(images)} images could not be decoded, '
            f'such as {failed[:_NAMED]}; the manifest of '
            f'{round_path(root, mask_round)} lists them. Training takes '
            'others in their place',
            logger='current',
            level=logging.WARNING)
    bank = MaskBank.open(round_path(root, mask_round))
    seconds = time.perf_counter() - start
    print_log(
        f'Mask round {mask_round}: {len(images)} images in {len(groups)} '
        f'groups, {seconds:.1f} s ({seconds / len(images):.4f} s an image), '
        f'{_regions(bank):.1f} regions an image, in {bank.path}',
        logger='current')
    return bank


def together(function: Callable[[], None]) -> None:
    """Run a step on every rank; if one fails, fail on all.

    Args:
        function (Callable): The step.

    Raises:
        MaskRoundError: With the tracebacks of the ranks that failed.
    """
    error, report = None, ''
    try:
        function()
    except Exception as caught:
        error, report = caught, traceback.format_exc()
    reports = all_gather_object(report)
    if any(reports):
        if error is not None and get_world_size() == 1:
            raise MaskRoundError(str(error)) from error
        raise MaskRoundError('\n'.join(
            f'On rank {rank}:\n{text}' for rank, text in enumerate(reports)
            if text)) from error
    barrier()


def _try_read(path: str, backend_args: Optional[dict]) -> Optional[np.ndarray]:
    try:
        return read_image(path, backend_args)
    except BrokenImageError as error:
        print_log(str(error), logger='current', level=logging.WARNING)
        return None


def _segment_group(source: MaskSource, images: Sequence[Tuple[str, str]],
                   pixels: Dict[int, Optional[np.ndarray]],
                   seed: Tuple[int, int, int], previous: Optional[MaskBank],
                   failed: List[str]) -> Dict[int, np.ndarray]:
    """Label maps of a group by index; broken images keep their old one."""
    whole = {i: image for i, image in pixels.items() if image is not None}
    maps: Dict[int, np.ndarray] = {}
    if whole:
        keys = [images[index][0] for index in whole]
        maps = dict(
            zip(whole, source.label_maps(list(whole.values()), keys, seed)))
    for index in pixels.keys() - whole.keys():
        key = images[index][0]
        failed.append(key)
        maps[index] = (
            previous.label_map(key) if previous is not None
            and key in previous else np.zeros((1, 1), dtype=np.uint8))
    return maps


def _regions(bank: MaskBank) -> float:
    """Mean number of regions of up to 200 images."""
    keys = bank.keys()
    keys = keys[::max(1, len(keys) // 200)]
    return float(np.mean([len(np.unique(bank.label_map(k))) for k in keys]))
