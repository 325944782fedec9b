"""Features of a middle layer, computed no further than that layer."""
import difflib
from collections import defaultdict
from copy import deepcopy
from typing import Any, Dict, List, Optional, Sequence, Tuple

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from ..datasets.image_io import at_long_side

_MAX_PIXELS = 1 << 22
"""Pixels of one forward, about 14 photographs of 640x480 ..."""
_MAX_PIXELS_CPU = 1 << 18
"""... or one on a CPU, whose caches hold no more: larger batches are not
faster (docs/mask_update.md)."""


class _LayerReached(Exception):
    """Ends a forward once the layer's output is known."""


class FeatureExtractor:
    """Unit feature vectors of a layer for images of any size.

    It works on a frozen copy of the backbone (evaluation mode, convolutions
    and batch norms fused, channels last): the network in training is not
    touched.

    Args:
        backbone (nn.Module): The backbone.
        layer (str): Name of a submodule with a map (B, C, h, w) as output.
            Defaults to 'layer2.2', the third block of ResNet's stage 2.
        mean (Sequence[float]): Mean of each channel, in the order of
            ``to_rgb``. Defaults to ImageNet's (123.675, 116.28, 103.53).
        std (Sequence[float]): Standard deviation of each channel.
            Defaults to ImageNet's (58.395, 57.12, 57.375).
        to_rgb (bool): Turn the BGR images into RGB. Defaults to True.
        dtype (torch.dtype): Precision of the forward; the normalisation is
            in float32. Defaults to torch.float32.
        reflect (int): Mirror so many pixels beyond each border first and cut
            their features off again, so that the border is not told by the
            zeros around it; a multiple of the layer's stride.
            Defaults to 0.
        smooth (float): Standard deviation, in pixels of the image, of a
            Gaussian that averages the unit vectors; they are made unit
            vectors again. Defaults to 0, no averaging.
        long_side (int, optional): Bring images to this long side first, in
            pixels; ``reflect`` and ``smooth`` count those pixels.
            Defaults to None, each image at its own size.

    Raises:
        ValueError: If the backbone has no such layer.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layer: str = 'layer2.2',
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        to_rgb: bool = True,
        dtype: torch.dtype = torch.float32,
        reflect: int = 0,
        smooth: float = 0.,
        long_side: Optional[int] = None
    ) -> None:
        names = dict(backbone.named_modules())
        if not layer or layer not in names:
            near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4)
            raise ValueError(
                f'The backbone {type(backbone).__name__} has no layer '
                f'{layer!r}; the nearest are {near}')
        copy = deepcopy(backbone).requires_grad_(False)
        copy.eval()  # which returns None in mmpretrain's backbones
        self._backbone = fuse_conv_bn(copy).to(
            dtype=dtype, memory_format=torch.channels_last)
        self._backbone.get_submodule(layer).register_forward_hook(self._stop)
        self._device = next(backbone.parameters()).device
        self._mean = torch.tensor(mean, device=self._device).view(-1, 1, 1)
        self._std = torch.tensor(std, device=self._device).view(-1, 1, 1)
        self._to_rgb = to_rgb
        self._dtype = dtype
        self._reflect = reflect
        self._smooth = smooth
        self._long_side = long_side
        self._max_pixels = (_MAX_PIXELS_CPU if self._device.type == 'cpu' else
                            _MAX_PIXELS)
        self._output: Any = None

    def _stop(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._output = output
        raise _LayerReached

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> List[Tensor]:
        """Compute the features of images.

        Images of one size run as a batch. The batches depend on ``images``
        only, so that the same list gives the same features.

        Args:
            images (Sequence[np.ndarray]): BGR images, each (H, W, 3), uint8.

        Returns:
            List[Tensor]: For each image (h, w, C), float32, unit vectors, on
            the device of the backbone.
        """
        if self._long_side:
            images = [at_long_side(i, self._long_side) for i in images]
        if self._reflect:
            images = [
                mmcv.impad(
                    image, padding=self._reflect, padding_mode='reflect')
                for image in images
            ]
        by_size: Dict[Tuple[int, ...], List[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_size[image.shape].append(index)
        features: Dict[int, Tensor] = {}
        for (height, width, _), indices in by_size.items():
            batch = max(1, self._max_pixels // (height * width))
            for start in range(0, len(indices), batch):
                part = indices[start:start + batch]
                maps = self._forward(np.stack([images[i] for i in part]))
                features.update(zip(part, maps))
        return [features[index] for index in range(len(images))]

    def _forward(self, images: np.ndarray) -> Tensor:
        """Map (B, H, W, 3) uint8 to unit vectors (B, h, w, C)."""
        batch = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)
        if self._to_rgb:
            batch = batch.flip(1)
        batch = (batch.float() - self._mean) / self._std
        try:
            self._backbone(batch.to(
                dtype=self._dtype, memory_format=torch.channels_last))
        except _LayerReached:
            pass
        output, self._output = self._output, None
        if self._reflect:
            # In cells; rounding undoes that the last cell may be a part.
            cut = round(self._reflect * output.shape[2] / images.shape[1])
            output = output[:, :, cut:-cut, cut:-cut]
        unit = F.normalize(output.float(), dim=1)
        if self._smooth:
            size = [side - 2 * self._reflect for side in images.shape[1:3]]
            unit = F.normalize(_smoothed(unit, self._smooth, size), dim=1)
        return unit.permute(0, 2, 3, 1)


def _smoothed(maps: Tensor, sigma: float, size: Sequence[int]) -> Tensor:
    """Blur maps (B, C, h, w) of images of a size by ``sigma`` pixels."""
    for axis in (0, 1):  # one after the other is the cheaper
        cells = maps.shape[2 + axis]
        width = sigma * cells / size[axis]
        # three deviations, or as far as mirroring reaches
        radius = min(round(3 * width), cells - 1)
        if radius > 0:
            kernel, deviation = [1, 1], [1., 1.]
            kernel[1 - axis], deviation[1 - axis] = 2 * radius + 1, width
            maps = gaussian_blur(maps, kernel, deviation)
    return maps
