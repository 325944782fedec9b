"""Features of a middle layer, computed no further than that layer."""
import difflib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import fuse_conv_bn
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.functional import gaussian_blur

from ..datasets.image_io import at_long_side
from ..errors import UserError
from ..ops.memory_format import forward_format
from .layer_output import LayerOutput
from .network_state import copy_of

_MAX_PIXELS = 1 << 22
"""Pixels of one forward, about 14 photographs of 640x480 ..."""
_MAX_PIXELS_CPU = 1 << 18
"""... or one on a CPU, whose caches hold no more: larger batches are not
faster (docs/mask_update.md)."""


@contextmanager
def _same_algorithms() -> Iterator[None]:
    """Make cuDNN use the same deterministic algorithms in every process.

    Trying all algorithms (``env_cfg.cudnn_benchmark``) pays off for views of
    one size. Photographs have dozens of sizes, and each would be tried. The
    fastest algorithm, and with it the masks, could differ from run to run.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


class FeatureExtractor:
    """Unit feature vectors of a layer for images of any size.

    It works on a frozen copy of the backbone, in evaluation mode, with
    channels last, and with convolutions and batch norms fused if a test shows
    that this changes nothing. The network in training is not changed.

    Args:
        backbone (nn.Module): The backbone.
        layer (str): Name of a submodule whose output is a map: (B, C, h, w),
            (B, h, w, C) or tokens (B, h * w, C), also after a class token.
            'layer2.2' is the third block of ResNet's stage 2.
        data_preprocessor (BaseDataPreprocessor): The model's own, which turns
            BGR into RGB and normalises.
        dtype (torch.dtype): Precision of the forward; the normalisation is
            in float32. Defaults to torch.float32.
        reflect (int): Mirror this many pixels beyond each border first and cut
            off their features afterwards, so that the zeros around the image
            do not mark its border; a multiple of the layer's stride. Defaults
            to 0.
        smooth (float): Standard deviation, in pixels of the image, of a
            Gaussian that averages the unit vectors; the averages are
            normalised again. Defaults to 0, no averaging.
        keep_plain (bool): Append the averaged vectors to the plain ones, 2 C
            channels. Defaults to False, only the averaged ones.
        long_side (int, optional): Resize images to this long side first, in
            pixels; ``reflect`` and ``smooth`` count those pixels. Defaults to
            None, each image at its own size.
        max_pixels (int, optional): Reduce images of more pixels to about this
            number first. Ignored with ``long_side``. Defaults to None, no
            limit.

    Raises:
        ValueError: If the backbone has no such layer, or the output of the
            layer is not a map.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layer: str,
        data_preprocessor: BaseDataPreprocessor,
        dtype: torch.dtype = torch.float32,
        reflect: int = 0,
        smooth: float = 0.,
        long_side: int | None = None,
        max_pixels: int | None = None,
        keep_plain: bool = False
    ) -> None:
        names = dict(backbone.named_modules())
        if not layer or layer not in names:
            near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4)
            raise UserError(
                f'The backbone {type(backbone).__name__} has no layer '
                f'{layer!r}; the nearest are {near}')
        copy = copy_of(backbone).requires_grad_(False)
        copy.eval()  # which returns None in mmpretrain's backbones
        self._maps = LayerOutput(copy, layer)
        if _fuses(copy, self._maps):
            copy = fuse_conv_bn(copy)
        else:
            print_log(
                f'{type(backbone).__name__}: convolutions and batch norms are '
                f'not fused for the mask round, since {layer!r} would give '
                'other features',
                logger='current')
        self._backbone = copy.to(dtype)
        self._device = next(backbone.parameters()).device
        self._format = forward_format(copy, self._device)
        for tensor in (*copy.parameters(), *copy.buffers()):
            if tensor.ndim == 4:  # of others there is no such format
                tensor.data = tensor.to(memory_format=self._format)
        self._data_preprocessor = data_preprocessor
        self._dtype = dtype
        self._reflect = reflect
        self._smooth = smooth
        self._keep_plain = keep_plain
        self._long_side = long_side
        self._reduce_to = max_pixels
        self._max_pixels = (_MAX_PIXELS_CPU if self._device.type == 'cpu' else
                            _MAX_PIXELS)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Tensor]:
        """Compute the features of images; see :meth:`each`."""
        features = dict(self.each(images))
        return [features[index] for index in range(len(images))]

    def each(self, images: Sequence[np.ndarray]
             ) -> Iterator[tuple[int, Tensor]]:
        """Compute the features of images, a batch at a time.

        Images of one size run as a batch. The batches depend only on
        ``images``, so the same list gives the same features.

        Args:
            images (Sequence[np.ndarray]): BGR images, each (H, W, 3), uint8.

        Yields:
            tuple[int, Tensor]: Index of an image and its (h, w, C), float32,
            unit vectors, on the device of the backbone.

        Raises:
            LayerError: If the network fails for an image; the message names
                its size.
        """
        images = [
            resized(image, self._long_side, self._reduce_to)
            for image in images
        ]
        if self._reflect:
            images = [
                mmcv.impad(
                    image, padding=self._reflect, padding_mode='reflect')
                for image in images
            ]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_size[image.shape].append(index)
        for (height, width, _), indices in by_size.items():
            batch = max(1, self._max_pixels // (height * width))
            for start in range(0, len(indices), batch):
                part = indices[start:start + batch]
                yield from zip(
                    part, self._forward(np.stack([images[i] for i in part])))

    @torch.no_grad()
    @_same_algorithms()
    def _forward(self, images: np.ndarray) -> Tensor:
        """Map (B, H, W, 3) uint8 to unit vectors (B, h, w, C)."""
        batch = self._data_preprocessor(
            dict(
                inputs=torch.from_numpy(images).permute(0, 3, 1, 2),
                data_samples=None))['inputs']
        output = self._maps(self._backbone, batch.to(
            self._device, self._dtype, memory_format=self._format))
        if self._reflect:
            # In cells; rounding corrects for a partial last cell.
            cut = round(self._reflect * output.shape[2] / images.shape[1])
            output = output[:, :, cut:-cut, cut:-cut]
        unit = F.normalize(output.float(), dim=1)
        if self._smooth:
            size = [side - 2 * self._reflect for side in images.shape[1:3]]
            smooth = F.normalize(_smoothed(unit, self._smooth, size), dim=1)
            unit = torch.cat([unit, smooth], 1) if self._keep_plain else smooth
        return unit.permute(0, 2, 3, 1)


def _fuses(network: nn.Module, maps: LayerOutput) -> bool:
    """Whether ``fuse_conv_bn`` does not change the maps of a network.

    It assumes that the batch norm registered after a convolution also follows
    it in the forward, and replaces it by an identity. That is wrong if the
    norm comes first, or contains the activation. The network's own statistics
    may hide this, as those of a new network do, so random ones are tried as
    well. The test runs on the CPU, where float32 is not TF32.
    """
    network = deepcopy(network).cpu()
    random = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *maps.example_size, generator=random)
    for _ in range(2):
        try:
            plain = maps(network, image)
            fused = maps(fuse_conv_bn(deepcopy(network)), image)
        except Exception:  # such as a norm without weights: no proof
            return False
        allowed = 1e-4 * (plain.abs() + plain.abs().mean())
        if not bool(((plain - fused).abs() <= allowed).all()):
            return False
        for module in network.modules():
            if (isinstance(module, _BatchNorm) and module.affine
                    and module.track_running_stats):
                _draw_statistics(module, random)
    return True


def _draw_statistics(norm: Any, random: torch.Generator) -> None:
    """Change all values of batch norms, each by about its own size."""
    # A weight of 0, with which residual branches begin, would hide its branch.
    gain, variance = (tensor.abs().mean().item() or 1.
                      for tensor in (norm.weight, norm.running_var))
    for tensor, size in ((norm.weight, gain), (norm.running_var, variance)):
        tensor.copy_(size * (torch.rand(len(tensor), generator=random) + 0.5))
    for tensor, size in ((norm.bias, gain),
                         (norm.running_mean, variance**0.5)):
        tensor += 0.3 * size * torch.randn(len(tensor), generator=random)


def resized(image: np.ndarray, long_side: int | None,
            max_pixels: int | None) -> np.ndarray:
    """Resize an image to the size at which features are computed.

    Args:
        image (np.ndarray): Shape (H, W, 3), uint8.
        long_side (int, optional): Its long side in pixels. None: only
            ``max_pixels`` applies.
        max_pixels (int, optional): Approximate limit of the number of pixels
            without ``long_side``. None: no limit.

    Returns:
        np.ndarray: The image, unchanged if it fits.
    """
    height, width = image.shape[:2]
    if long_side:
        return at_long_side(image, long_side)
    if not max_pixels or height * width <= max_pixels:
        return image
    scale = (max_pixels / (height * width))**0.5
    return at_long_side(image, max(1, int(max(height, width) * scale)))


def _smoothed(maps: Tensor, sigma: float, size: Sequence[int]) -> Tensor:
    """Blur maps (B, C, h, w) of images of one size by ``sigma`` pixels."""
    if maps.device.type != 'cpu':  # a depthwise convolution: forward_format
        maps = maps.contiguous()
    for axis in (0, 1):  # one after the other is cheaper
        cells = maps.shape[2 + axis]
        width = sigma * cells / size[axis]
        # three deviations, or as far as mirroring reaches
        radius = min(round(3 * width), cells - 1)
        if radius > 0:
            kernel, deviation = [1, 1], [1., 1.]
            kernel[1 - axis], deviation[1 - axis] = 2 * radius + 1, width
            maps = gaussian_blur(maps, kernel, deviation)
    return maps
