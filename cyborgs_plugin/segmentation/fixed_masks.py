"""Masks of the same few images, made in the same way each time."""
import logging
import os.path as osp
from collections.abc import Sequence
from typing import Any
from zipfile import BadZipFile

import numpy as np
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmpretrain.registry import TASK_UTILS
from torch import nn

from ..datasets.image_io import BrokenImageError, read_image
from ..files import written_aside
from .network_masks import NetworkMasks
from .round_report import agreement_of_maps


def fixed_masks(source_cfg: dict[str, Any],
                backbone: nn.Module,
                data_preprocessor: BaseDataPreprocessor,
                images: Sequence[tuple[str, str]],
                num_clusters: int,
                read_args: dict[str, Any] | None = None
                ) -> dict[str, np.ndarray]:
    """Segment each image by itself, into the same number of regions.

    A round draws K and new starting points, so that two rounds of the same
    network differ. Here they do not: what changes is the network.

    Args:
        source_cfg (dict): Config of the mask source.
        backbone (nn.Module): The network in training, which is left alone.
        data_preprocessor (BaseDataPreprocessor): How it sees pixels.
        images (Sequence[tuple[str, str]]): Key and path of each.
        num_clusters (int): K.
        read_args (dict, optional): Arguments of ``read_image``.
            Defaults to None.

    Returns:
        dict[str, np.ndarray]: By key the ids (h, w), integer. Empty if the
        masks do not depend on the network in training.
    """
    if not issubclass(TASK_UTILS.get(source_cfg['type']), NetworkMasks):
        return {}
    source = TASK_UTILS.build(
        dict(source_cfg, num_clusters=num_clusters, num_clusterings=1))
    if source.checkpoint is not None:
        return {}
    source.prepare(source.network(backbone), data_preprocessor)
    maps = {}
    for key, path in images:
        try:
            image = read_image(path, **read_args or {})
        except BrokenImageError as error:
            print_log(f'Not measured: {error}', logger='current',
                      level=logging.WARNING)
            continue
        maps[key], = source.label_maps([source.preprocess(image)], [key],
                                       (0, num_clusters))
    return maps


def agreement_with_before(maps: dict[str, np.ndarray], number: int,
                          path: str) -> float | None:
    """Compare masks with those of the round before, and keep them.

    Those of both rounds stay in the file, since a run that is resumed may
    make a round again.

    Args:
        maps (dict[str, np.ndarray]): What :func:`fixed_masks` gave.
        number (int): The round.
        path (str): The file, a ``.npz``, which need not exist.

    Returns:
        float or None: The mean adjusted Rand index; None where the file has
        none of the round before, or cannot be read.
    """
    prefix, earlier = f'{number - 1}/', {}
    if number and osp.isfile(path):
        try:
            with np.load(path, allow_pickle=False) as file:
                earlier = {
                    name.removeprefix(prefix): file[name]
                    for name in file.files if name.startswith(prefix)
                }
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            print_log(f'{path} cannot be read ({error}): a new one is started',
                      logger='current', level=logging.WARNING)
    kept = {prefix + key: ids for key, ids in earlier.items()}
    kept.update((f'{number}/{key}', ids) for key, ids in maps.items())
    with written_aside(path) as aside, open(aside, 'wb') as file:
        np.savez_compressed(file, **kept)
    pairs = [(earlier[key], ids) for key, ids in maps.items()
             if key in earlier]
    return agreement_of_maps(pairs) if pairs else None
