"""Features of annotated images from a frozen backbone."""
import logging
import os.path as osp
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.fileio import join_path
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models import SelfSupDataPreprocessor
from torch import nn

from ..datasets.coco_truth import (
    TURNED,
    CocoTruth,
    evenly,
    is_copy,
    is_turned,
)
from ..datasets.image_files import find_files
from ..datasets.image_io import BrokenImageError, at_long_side, read_image
from ..errors import UserError
from .names import find_annotated

IGNORE = 255
"""The class of locations that are neither trained on nor scored."""
_NAMED = 5  # number of images in a message


class FrozenFeatures:
    """Feature maps of whole images from a frozen backbone.

    The stages are brought to one grid by averaging (or repeating) and
    concatenated, as in ``MaskGroundedNeck``.

    Args:
        backbone (nn.Module): Returns a tuple of maps (B, C_i, H_i, W_i). It is
            set to evaluation mode.
        data_preprocessor (BaseDataPreprocessor, optional): Its preprocessing
            of pixels. Defaults to None: RGB, with ImageNet's mean and standard
            deviation.
        grid_stride (int): Side of a grid cell in pixels of the resized image.
            Defaults to 16.
        long_side (int, optional): Resize images to this long side first.
            Defaults to None, their own size.
    """

    def __init__(self,
                 backbone: nn.Module,
                 data_preprocessor: BaseDataPreprocessor | None = None,
                 grid_stride: int = 16,
                 long_side: int | None = None) -> None:
        backbone.eval()
        self.backbone = backbone
        self._data_preprocessor = (
            data_preprocessor or SelfSupDataPreprocessor(
                mean=(123.675, 116.28, 103.53),
                std=(58.395, 57.12, 57.375),
                to_rgb=True)).to(next(backbone.parameters()).device)
        self.grid_stride = grid_stride
        self.long_side = long_side

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the features of an image.

        Args:
            image (np.ndarray): BGR, shape (H, W, 3), uint8.

        Returns:
            tuple[np.ndarray, np.ndarray]: The fused map (C, h, w), and the
            mean of the last stage's map (C_last, ), both float32.

        Raises:
            ValueError: If an output of the backbone is not a map.
        """
        if self.long_side is not None:
            image = at_long_side(image, self.long_side)
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        stages = self.backbone(
            self._data_preprocessor(
                dict(
                    inputs=pixels.permute(2, 0, 1)[None],
                    data_samples=None))['inputs'])
        self._check(stages)
        height, width = image.shape[:2]
        grid = (-(-height // self.grid_stride), -(-width // self.grid_stride))
        fused = torch.cat(
            [F.adaptive_avg_pool2d(stage, grid) for stage in stages], 1)[0]
        whole = stages[-1].mean(dim=(2, 3))[0]
        return fused.float().cpu().numpy(), whole.float().cpu().numpy()

    def _check(self, stages: Sequence[Any]) -> None:
        """Refuse tokens and the like."""
        found = [
            tuple(stage.shape) if isinstance(stage, torch.Tensor) else
            type(stage) for stage in stages
        ]
        if isinstance(stages, torch.Tensor) or not found or any(
                isinstance(shape, type) or len(shape) != 4
                for shape in found):
            raise UserError(
                f'{type(self.backbone).__name__} gives {found}, but frozen '
                'features are taken from a tuple of maps (B, C, H, W): have '
                'it give such maps (out_type="featmap" of a transformer)')


def pool_masks(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Average a feature map over ground-truth masks.

    Each cell is weighted by the part of it that the mask covers, so an object
    smaller than a cell still gets that cell's feature.

    Args:
        features (np.ndarray): Shape (C, h, w), float32.
        masks (np.ndarray): Shape (N, H, W), bool; they cover the whole image
            at any resolution.

    Returns:
        np.ndarray: Shape (N, C), float32.

    Raises:
        ValueError: If a mask is empty.
    """
    if not masks.any(axis=(1, 2)).all():
        raise UserError('A region without a pixel has no feature: leave '
                        'empty masks out')
    weight = F.adaptive_avg_pool2d(
        torch.from_numpy(masks).float()[:, None], features.shape[1:])
    weight = weight.flatten(1)
    weight = weight / weight.sum(dim=1, keepdim=True)
    return (weight @ torch.from_numpy(features).flatten(1).T).numpy()


class ProbeImages(NamedTuple):
    """The annotated images of one side of a probe."""

    root: str
    """Folder that the ``file_name`` of an image is relative to."""
    truth: CocoTruth
    """Their instances: classes of regions and of whole images."""
    scenes: CocoTruth
    """What labels the pixels: panoptic, or ``truth`` once more."""


class ProbeFeatures(NamedTuple):
    """What the probes are trained or scored on, for one side."""

    regions: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Features (M, C), class and image, each (M, ), of each region."""
    maps: list[tuple[np.ndarray, np.ndarray]]
    """Features (C, h, w) and class of each pixel (H, W) of each image."""
    images: tuple[np.ndarray, np.ndarray]
    """Features (N, C) of each image, and whether each class is in it,
    (N, K), bool."""
    numbers: tuple[np.ndarray, np.ndarray]
    """Image (as in ``regions``) of each of the maps, and of each row of
    ``images``, int64."""

    def of_images(self, numbers: Sequence[int]) -> 'ProbeFeatures':
        """Those of some images only.

        Args:
            numbers (Sequence[int]): Places in the list of the images that were
                asked for.
        """
        of_maps, of_rows = self.numbers
        regions = np.isin(self.regions[2], numbers)
        rows = np.isin(of_rows, numbers)
        kept = np.flatnonzero(np.isin(of_maps, numbers))
        return ProbeFeatures(
            (self.regions[0][regions], self.regions[1][regions],
             self.regions[2][regions]), [self.maps[place] for place in kept],
            (self.images[0][rows], self.images[1][rows]),
            (of_maps[kept], of_rows[rows]))


def collect(features: FrozenFeatures, side: ProbeImages, min_area: int,
            max_images: int | None) -> ProbeFeatures:
    """Compute the features of all images of a side.

    An image is left out with a warning if it is broken, if its height and
    width are swapped in the json (``is_turned``), or if its proportions differ
    from the json's. A resized image is used: outlines belong to an image of
    the json's size, whatever the resolution.

    Args:
        features (FrozenFeatures): The frozen backbone.
        side (ProbeImages): The images.
        min_area (int): Objects of fewer pixels, and crowds, are not regions.
        max_images (int, optional): Use this many images, evenly spread; None
            uses all.

    Returns:
        ProbeFeatures: Features of the images that are not left out.

    Raises:
        ValueError: If all images are left out, if there is no region, or if a
            name fits several files.
    """
    pooled: list[np.ndarray] = []
    classes: list[np.ndarray] = []
    origins: list[np.ndarray] = []
    maps: list[tuple[np.ndarray, np.ndarray]] = []
    vectors: list[np.ndarray] = []
    presence = []
    of_maps: list[int] = []
    of_rows: list[int] = []
    labelled = set(evenly(side.scenes.names, max_images))
    names = evenly(side.truth.names, max_images)
    names += sorted(labelled.difference(names))
    turned: list[str] = []
    odd: list[str] = []
    broken: list[str] = []
    paths = _paths(side, names)
    for number, name in enumerate(names):
        try:
            image = read_image(paths[name])
        except BrokenImageError as error:
            broken.append(str(error))
            continue
        truth = side.truth if name in side.truth else side.scenes
        if is_turned(image.shape[:2], truth.size(name)):
            turned.append(name)
            continue
        if not is_copy(image.shape, truth.size(name)):
            odd.append(f'{name} ({truth.size(name)}, but its file '
                       f'{image.shape[:2]})')
            continue
        dense, whole = features(image)
        if name in labelled:
            maps.append((dense, side.scenes.semantic(name, IGNORE)))
            of_maps.append(number)
        if name not in side.truth:
            continue
        found = side.truth.instances(name)
        vectors.append(whole)
        of_rows.append(number)
        presence.append(
            np.isin(np.arange(len(side.truth.classes)), found.classes))
        kept = ~found.crowd & (found.masks.sum((1, 2)) >= min_area)
        if kept.any():
            pooled.append(pool_masks(dense, found.masks[kept]))
            classes.append(found.classes[kept])
            origins.append(np.full(int(kept.sum()), number))
    left_out = []
    if broken:
        left_out.append(
            f'{len(broken)} of {len(names)} images of {side.truth.ann_file} '
            f'cannot be read: {"; ".join(broken[:_NAMED])}')
    if turned:
        left_out.append(
            f'{side.truth.ann_file} has height and width the other way round '
            f'than {len(turned)} of {len(names)} images in {side.root}, such '
            f'as {turned[:_NAMED]}: {TURNED}')
    if odd:
        left_out.append(
            f'{side.truth.ann_file} has other proportions of height and width '
            f'than {len(odd)} of {len(names)} images in {side.root}, such as '
            f'{"; ".join(odd[:_NAMED])}: they are other images, or were cut '
            'after they were annotated')
    if len(broken) + len(turned) + len(odd) == len(names):
        raise UserError('. '.join(left_out))
    for message in left_out:
        print_log(
            f'Left out of the probes: {message}',
            logger='current',
            level=logging.WARNING)
    if not pooled:
        raise UserError(f'{side.truth.ann_file} has no object of at least '
                        f'{min_area} pixels')
    return ProbeFeatures((np.concatenate(pooled), np.concatenate(classes),
                          np.concatenate(origins)), maps,
                         (np.stack(vectors), np.stack(presence)),
                         (np.array(of_maps, np.int64),
                          np.array(of_rows, np.int64)))


def _paths(side: ProbeImages, names: Sequence[str]) -> dict[str, str]:
    """Path of the file of each name; names may differ slightly.

    A folder is listed only if a file does not exist under its exact name.
    """
    paths = {name: join_path(side.root, name) for name in names}
    if '://' not in side.root and not all(map(osp.isfile, paths.values())):
        found = find_annotated([*side.truth.names, *side.scenes.names],
                               find_files(side.root).files, side.root,
                               side.truth.ann_file)
        paths.update({
            name: join_path(side.root, file)
            for name, file in found.items() if name in paths
        })
    return paths
