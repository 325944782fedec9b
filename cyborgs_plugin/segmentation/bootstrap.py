"""A mask round: images to label maps to a published ``MaskBank`` round."""
import logging
import shutil
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from datetime import timedelta
from functools import lru_cache
from typing import (
    Any,
)

import numpy as np
import torch
import torch.distributed as torch_dist
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from ..datasets.image_io import BrokenImageError, read_image
from ..datasets.mask_bank import (
    MaskBank,
    MaskBankWriter,
    clear_leftovers,
    give_up_round,
    is_given_up,
    publish_round,
    round_path,
)
from ..errors import UserError
from ..ops.label_maps import resize_label_map
from .layer_output import run_to_layer
from .sources import MaskSource, NonFiniteFeaturesError

_NAMED = 10
BackendArgs = dict | Callable[[int], dict | None] | None


class MaskRoundError(UserError, RuntimeError):
    """A mask round failed on some rank; raised on all of them.

    Attributes:
        diverged (bool): Whether features that are NaN or infinite, and
            nothing else, were the cause.
    """

    def __init__(self, message: str, diverged: bool = False) -> None:
        super().__init__(message)
        self.diverged = diverged


def make_round(source: MaskSource,
               images: Sequence[tuple[str, str]],
               root: str,
               mask_round: int,
               seed: int,
               group_size: int = 16,
               previous: MaskBank | None = None,
               backend_args: BackendArgs = None,
               decode_threads: int = 2,
               meta: dict[str, Any] | None = None) -> MaskBank:
    """Segment all images and publish the label maps as a round.

    Every rank calls it. Images are dealt into groups by a permutation that
    depends on the seed and the round, and groups to ranks in turn, so that
    neither the number of ranks nor that of threads changes a group.

    Args:
        source (MaskSource): Where the masks come from, prepared.
        images (Sequence[tuple[str, str]]): Key and path of each image.
        root (str): Root of the bank, on a disk that all nodes share.
        mask_round (int): Number of the round.
        seed (int): Seed of the run.
        group_size (int): Images that are segmented together.
            Defaults to 16.
        previous (MaskBank, optional): The round before: an image that cannot
            be decoded keeps its map of that round. Defaults to None, a map
            of one region.
        backend_args (dict or Callable, optional): Arguments of the file
            backend, or what gives those of the image at an index.
            Defaults to None.
        decode_threads (int): Threads that decode the next group meanwhile.
            Defaults to 2.
        meta (dict[str, Any], optional): What else the manifest shall hold.
            Defaults to None.

    Returns:
        MaskBank: The published round.

    Raises:
        MaskRoundError: If any rank failed. No round is published then.
    """
    order = np.random.default_rng([seed, mask_round]).permutation(len(images))
    num_groups = -(-len(images) // group_size)
    rank, world_size = get_rank(), get_world_size()
    mine = range(rank, num_groups, world_size)
    broken: list[str] = []
    clusters: list[int] = []  # K of each group
    regions = 0

    def segment() -> None:
        nonlocal regions
        writer = MaskBankWriter(root, mask_round, rank)
        bar = ProgressBar(len(mine)) if rank == 0 and len(mine) > 1 else None
        with ThreadPoolExecutor(decode_threads) as pool:

            def decode(number: int) -> dict[int, Any]:
                first = number * group_size
                return {
                    index: pool.submit(
                        _try_read, images[index],
                        backend_args(index)
                        if callable(backend_args) else backend_args)
                    for index in order[first:first + group_size].tolist()
                }

            ahead = decode(mine[0]) if mine else {}
            for done, number in enumerate(mine, 1):
                pixels = {i: future.result() for i, future in ahead.items()}
                if done < len(mine):
                    ahead = decode(mine[done])
                maps = _segment_group(source, images, pixels,
                                      (seed, mask_round, number), previous)
                for index, label_map in maps.items():
                    writer.add(index, images[index][0], label_map)
                    regions += _num_regions(label_map)
                lost = [i for i, image in pixels.items() if image is None]
                broken.extend(images[index][0] for index in lost)
                clusters.append(1 + max((int(maps[index].max())
                                         for index in maps.keys() - lost),
                                        default=0))
                if is_given_up(root, mask_round):
                    return  # Whoever gave up tells why.
                # A hundred lines, where the output is a file.
                if bar is not None and (done == len(mine) or not done % (
                        1 + len(mine) // 100)):
                    bar.update(done - bar.completed)
        if bar is not None:
            bar.file.write('\n')
        writer.close()

    def try_to_segment() -> None:
        try:
            segment()
        except Exception:
            give_up_round(root, mask_round)
            raise

    def publish() -> None:
        if rank == 0:
            publish_round(
                root, mask_round, len(images),
                dict(
                    meta or {},
                    seed=seed,
                    group_size=group_size,
                    broken_images=sorted(broken),
                    counts=dict(
                        groups=num_groups,
                        clusters=[
                            min(clusters),
                            sum(clusters) / num_groups,
                            max(clusters)
                        ],
                        regions=regions / len(images) /
                        source.num_clusterings)))

    group = _patient_group()
    together(lambda: clear_leftovers(root) if rank == 0 else None, group)
    together(try_to_segment, group)
    parts = all_gather_object((broken, clusters, regions), group)
    broken, clusters = (sum((part[i] for part in parts), [])
                        for i in range(2))
    regions = sum(part[2] for part in parts)
    together(publish, group)
    bank = MaskBank.open(round_path(root, mask_round))
    if broken:
        print_log(
            f'{len(broken)} of {len(images)} images could not be decoded, '
            f'such as {sorted(broken)[:_NAMED]}; the manifest of {bank.path} '
            'lists them. Training takes others in their place',
            logger='current',
            level=logging.WARNING)
    return bank


def together(function: Callable[[], Any],
             group: torch_dist.ProcessGroup | None = None) -> None:
    """Run a step on every rank; if one fails, fail on all.

    Args:
        function (Callable): The step.
        group (ProcessGroup, optional): Whose ranks wait for one another.
            Defaults to None, all.

    Raises:
        MaskRoundError: With the tracebacks of the ranks that failed.
    """
    error, report = None, None
    try:
        function()
    except Exception as caught:
        error = caught
        report = (isinstance(error, NonFiniteFeaturesError), str(error),
                  traceback.format_exc())
    reports = {
        rank: report
        for rank, report in enumerate(all_gather_object(report, group))
        if report is not None
    }
    if not reports:
        return
    diverged = all(report[0] for report in reports.values())
    if diverged or get_world_size() == 1:
        message = '; '.join(report[1] for report in reports.values())
    else:
        message = '\n'.join(f'On rank {rank}:\n{report[2]}'
                            for rank, report in reports.items())
    raise MaskRoundError(message, diverged) from error


def describe_round(bank: MaskBank, seconds: float,
                   previous: MaskBank | None) -> str:
    """Say in one line what a round is like.

    Args:
        bank (MaskBank): A round that :func:`make_round` made.
        seconds (float): How long that took.
        previous (MaskBank, optional): The round before.
    """
    counts, number = bank.manifest['counts'], len(bank)
    low, mean, high = counts['clusters']
    parts = [
        f'Mask round {bank.round}: {number} images',
        f'{len(bank.manifest["broken_images"])} broken',
        f'K {low} to {high} (mean {mean:.1f})',
        f'{counts["regions"]:.1f} regions an image',
        f'{seconds:.1f} s ({seconds / number:.4f} s an image)'
    ]
    if previous is not None:
        index, compared = agreement(previous, bank)
        parts.append(f'ARI {index:.3f} with round {previous.round} '
                     f'({compared} images)')
    free = shutil.disk_usage(bank.path).free / 1e9
    return ', '.join([*parts, f'{free:.1f} GB free'])


def agreement(first: MaskBank, second: MaskBank,
              num_images: int = 100) -> tuple[float, int]:
    """Mean adjusted Rand index of images in two rounds.

    Maps of different grids are compared on the finer one; of several
    clusterings the first counts.

    Args:
        first (MaskBank): A round.
        second (MaskBank): Another one.
        num_images (int): Images that are compared at most, evenly spaced.
            Defaults to 100, less than a second at stride 8.

    Returns:
        tuple[float, int]: The mean (NaN where no image is in both), and the
        number of images.
    """
    from sklearn.metrics import adjusted_rand_score
    scores = []
    for key in second.keys(num_images):
        if key in first:
            maps = [bank.label_map(key) for bank in (first, second)]
            height, width = np.max([ids.shape for ids in maps], axis=0)
            scores.append(adjusted_rand_score(*(
                resize_label_map(ids, (height, width)).ravel()
                for ids in maps)))
    return float(np.mean(scores)) if scores else float('nan'), len(scores)


def network_state(backbone: nn.Module,
                  layer: str | None) -> dict[str, Tensor]:
    """The part of a network's state that a layer's output depends on.

    Args:
        backbone (nn.Module): A network that takes images (B, 3, H, W).
        layer (str, optional): Name of a submodule; None, and a name that
            there is not, stand for the whole network, as does a network that
            fails for an image of 64x64.

    Returns:
        dict[str, Tensor]: Copies on the CPU, by their names in the state
        dict.
    """
    state = backbone.state_dict()
    if layer in dict(backbone.named_modules()):
        needs = _modules_up_to(backbone, layer)
        state = {
            name: tensor
            for name, tensor in state.items() if needs(name)
        }
    return {
        name: tensor.detach().cpu().clone() for name, tensor in state.items()
    }


def _modules_up_to(backbone: nn.Module, layer: Any) -> Callable[[str], bool]:
    """Tell tensors of the modules that run until a layer has its output."""
    twin = deepcopy(backbone)
    twin.eval()  # which returns None in mmpretrain's backbones
    begun: set[str] = set()
    ended: set[str] = set()
    for name, module in twin.named_modules():
        module.register_forward_pre_hook(
            lambda *_, name=name: begun.add(name))
        module.register_forward_hook(lambda *_, name=name: ended.add(name))
    parameter = next(twin.parameters())
    try:
        with torch.no_grad():
            run_to_layer(twin, layer, parameter.new_zeros(1, 3, 64, 64))
    except Exception:  # a network may say anything of a size
        return lambda tensor: True

    def needs(tensor: str) -> bool:
        owner = tensor.rpartition('.')[0]
        parts = owner.split('.')
        # A module may use what its parts hold and not call them, as torch's
        # MultiheadAttention does: one that ended counts as a whole.
        return owner in begun or any(
            '.'.join(parts[:end]) in ended for end in range(1, len(parts)))

    return needs


def _patient_group() -> torch_dist.ProcessGroup | None:
    """All ranks, able to wait for one another for days.

    The default group ends a job whose ranks wait for some minutes, and NCCL
    does not notice that a process died. The group is made once and kept for
    the whole run: torch 2.1 can deadlock where a gloo group is destroyed,
    whose destructor waits, holding the GIL, for a thread that wants it.
    """
    if get_world_size() == 1:
        return None
    return _group_beside(torch_dist.group.WORLD)


@lru_cache(maxsize=1)
def _group_beside(world: torch_dist.ProcessGroup) -> torch_dist.ProcessGroup:
    """The patient group of a default group."""
    return torch_dist.new_group(backend='gloo', timeout=timedelta(days=7))


def _try_read(image: tuple[str, str],
              backend_args: dict | None) -> np.ndarray | None:
    try:
        return read_image(image[1], backend_args)
    except BrokenImageError as error:
        print_log(str(error), logger='current', level=logging.WARNING)
        return None


def _segment_group(source: MaskSource, images: Sequence[tuple[str, str]],
                   pixels: dict[int, np.ndarray | None],
                   seed: tuple[int, int, int],
                   previous: MaskBank | None) -> dict[int, np.ndarray]:
    """Label maps of a group by index; broken images keep their old one."""
    whole = {i: image for i, image in pixels.items() if image is not None}
    maps: dict[int, np.ndarray] = {}
    if whole:
        keys = [images[index][0] for index in whole]
        maps = dict(
            zip(whole, source.label_maps(list(whole.values()), keys, seed)))
    for index in pixels.keys() - whole.keys():
        maps[index] = _old_map(previous, images[index][0],
                               source.num_clusterings)
    return maps


def _old_map(previous: MaskBank | None, key: str,
             num_clusterings: int) -> np.ndarray:
    """The maps of an image in the round before, else one region."""
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
