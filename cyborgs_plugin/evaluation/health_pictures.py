"""The same few pictures, and what a network makes of them."""
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.model import BaseAveragedModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from ..datasets.image_io import BrokenImageError, read_image
from ..datasets.mask_bank import MaskBank
from ..models.frozen_target import FrozenTarget
from ..models.mask_grounded_neck import MaskGroundedNeck
from ..models.regions import sample_regions
from ..ops import crop_label_map

Box = tuple[int, int, int, int]
"""Top, left, height and width, in pixels."""
_BATCH = 32


class HealthPictures:
    """Pictures of the training data, cut to the size of a view.

    They are decoded once, when they are first asked for, and held. A picture
    is brought to cover the view and its middle is cut out.

    Args:
        images (Sequence[tuple[str, str]]): Key and path of each.
        size (tuple[int, int]): Height and width of a view.
        read_args (dict, optional): Arguments of ``read_image``.
            Defaults to None.
    """

    def __init__(self, images: Sequence[tuple[str, str]],
                 size: tuple[int, int],
                 read_args: dict[str, Any] | None = None) -> None:
        self.size = size
        self._boxes: dict[str, tuple[tuple[int, int], Box]] = {}
        pixels = []
        for key, path in images:
            try:
                image = read_image(
                    path, least_side=2 * max(size), **read_args or {})
            except BrokenImageError as error:
                print_log(f'Not measured: {error}', logger='current',
                          level=logging.WARNING)
                continue
            box = _middle(image.shape[:2], size)
            top, left, height, width = box
            pixels.append(
                cv2.resize(
                    image[top:top + height, left:left + width], size[::-1],
                    interpolation=cv2.INTER_AREA))
            self._boxes[key] = (image.shape[0], image.shape[1]), box
        self.pixels = np.stack(pixels) if pixels else np.zeros(
            (0, *size, 3), np.uint8)
        """Shape (N, H, W, 3), uint8, BGR."""

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def contrast(self) -> float:
        """How much a pixel differs from picture to picture, in grey levels."""
        if not len(self):
            return 0.
        # a row at a time: eight bytes for each of all values are 300 MB
        return float(np.mean([self.pixels[:, row].std(axis=0)
                              for row in range(self.size[0])]))

    def label_maps(self, bank: MaskBank | None) -> np.ndarray | None:
        """Label maps of the same crops.

        Args:
            bank (MaskBank, optional): The round. None: there are no masks.

        Returns:
            np.ndarray or None: Shape (N, H, W), int64; None if the round
            lacks one of them.
        """
        if bank is None or not all(key in bank for key in self._boxes):
            return None
        return np.stack([
            crop_label_map(bank.label_map(key), size, box, self.size)
            for key, (size, box) in self._boxes.items()
        ]).astype(np.int64)


def _middle(shape: tuple[int, ...], size: tuple[int, int]) -> Box:
    """The largest box of the form of ``size`` in the middle of a picture."""
    scale = min(shape[0] / size[0], shape[1] / size[1])
    height, width = (max(1, min(full, round(scale * side)))
                     for full, side in zip(shape, size))
    return ((shape[0] - height) // 2, (shape[1] - width) // 2, height, width)


@torch.no_grad()
def picture_vectors(model: Any, pixels: np.ndarray,
                    label_maps: np.ndarray | None
                    ) -> dict[str, Tensor]:
    """Compute what a model in training makes of pictures.

    The forward is plain: evaluation mode, no augmentation, float32. Nothing
    is drawn from the global generators, and modes are put back. Batch norms
    that have seen nothing yet take the statistics of the pictures (a SyncBN
    does not): by those that they begin with a fresh network seems nearly
    collapsed.

    Args:
        model (nn.Module): Has ``backbone`` and ``data_preprocessor``.
        pixels (np.ndarray): Shape (N, H, W, 3), uint8, BGR.
        label_maps (np.ndarray, optional): Shape (N, H, W), int64. None:
            there are no regions.

    Returns:
        dict[str, Tensor]: ``image``, the mean of the backbone's last map, or
        its last output, of each picture, (N, C); ``region``, the projections
        of the regions of all pictures, (M, D), where the model has a
        ``MaskGroundedNeck`` and masks are given.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    parts: dict[str, list[Tensor]] = defaultdict(list)
    try:
        with _fresh_norms_see_the_batch(model):
            for part in np.array_split(
                    np.arange(len(pixels)), -(-len(pixels) // _BATCH)):
                found = _forward(model, pixels[part], None if
                                 label_maps is None else label_maps[part])
                for kind, vectors in found.items():
                    parts[kind].append(vectors)
    finally:
        for module, mode in modes:
            module.training = mode
    return {kind: torch.cat(vectors) for kind, vectors in parts.items()}


def _forward(model: Any, pixels: np.ndarray,
             label_maps: np.ndarray | None) -> dict[str, Tensor]:
    """The vectors of a batch; see :func:`picture_vectors`."""
    device = next(model.backbone.parameters()).device
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    batch = model.data_preprocessor(
        dict(inputs=inputs, data_samples=None), False)['inputs']
    feats = model.backbone(batch.to(device))
    neck: Any = getattr(model, 'neck', None)
    if not isinstance(neck, MaskGroundedNeck):
        return dict(image=_pooled(feats).float())
    feats = neck.channels_first(feats)
    found = dict(image=_pooled(feats).float())
    if label_maps is not None:
        cells = neck.cells(torch.from_numpy(label_maps).to(device))
        # on the CPU, so that every device draws the same
        ids = sample_regions(cells.cpu(), neck.num_regions,
                             torch.Generator().manual_seed(0)).to(device)
        vectors, _ = neck(feats, cells, ids)
        found['region'] = vectors[ids >= 0].float()
    return found


@contextmanager
def _fresh_norms_see_the_batch(model: nn.Module) -> Iterator[None]:
    """Let norms that have no statistics yet take those of each batch."""
    fresh = [
        norm for norm in model.modules()
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None
        and norm.running_var is not None
        and not norm.running_mean.any()
        and torch.equal(norm.running_var, torch.ones_like(norm.running_mean))
    ]
    # A SyncBN in training would wait for the other ranks.
    alone = [norm for norm in fresh if not isinstance(norm, SyncBatchNorm)]
    kept = [{name: value.clone() for name, value in norm.named_buffers()}
            for norm in alone]
    for norm in alone:
        norm.training = True
    try:
        yield
    finally:
        for norm, buffers in zip(alone, kept):
            norm.training = False
            for name, value in norm.named_buffers():
                value.copy_(buffers[name])


def _pooled(feats: Any) -> Tensor:
    """One vector for each image (B, C) of what a backbone gives."""
    while isinstance(feats, (tuple, list)):
        feats = feats[-1]
    if feats.ndim == 4:
        return feats.mean(dim=(2, 3))
    return feats.mean(dim=1) if feats.ndim == 3 else feats.flatten(1)


def has_backbone(model: nn.Module) -> bool:
    """Whether :func:`picture_vectors` has something to measure."""
    return isinstance(getattr(model, 'backbone', None), nn.Module)


@torch.no_grad()
def target_sums(model: nn.Module) -> Tensor | None:
    """The sum of each weight of the networks that are to follow a model.

    Args:
        model (nn.Module): The model in training.

    Returns:
        Tensor or None: On the CPU, float64; None where no network is a moving
        average.
    """
    sums = [
        weight.double().sum() for module in model.modules()
        if isinstance(module, BaseAveragedModel)
        and not isinstance(module, FrozenTarget)
        for weight in module.parameters()
    ]
    return torch.stack(sums).cpu() if sums else None


def target_change(before: Tensor, now: Tensor) -> float:
    """How far the target network has moved.

    Args:
        before (Tensor): What :func:`target_sums` gave earlier.
        now (Tensor): What it gives now.

    Returns:
        float: Relative, by the sums of its weights; 0 if it has not moved.
    """
    return float((now - before).norm() / before.norm().clamp(min=1e-30))
