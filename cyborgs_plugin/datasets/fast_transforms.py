"""mmpretrain's transforms of colours and crops, in a fraction of the time.

Each draws what its parent draws, by the same calls of the same generators,
and does to the picture what Pillow does there, to a grey level or two:
``ops/colour.py`` and torch's kernel for bytes, in place of Pillow.
docs/performance.md has what that saves.
"""
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import RandomFlip, RandomGrayscale
from mmpretrain.datasets import (
    ColorJitter,
    GaussianBlur,
    RandomResizedCrop,
    Solarize,
)
from mmpretrain.registry import TRANSFORMS

from ..errors import UserError
from ..ops import colour
from ..ops.batch_crop import resize

_FILTERS = ('bilinear', 'bicubic')
_AXES = dict(horizontal=1, vertical=0, diagonal=-1)  # OpenCV's


@TRANSFORMS.register_module()
class FastRandomResizedCrop(RandomResizedCrop):
    """Crop and resize, with ``backend='torch'`` as Pillow does but faster.

    **Required Keys:** ``img``

    **Modified Keys:** ``img``, ``img_shape``

    Args:
        scale (int or Sequence[int]): Output size, (height, width) or a
            square's side.
        **kwargs: Arguments of mmpretrain's ``RandomResizedCrop``, by default
            an area of 0.08 to 1 and an aspect ratio of 3/4 to 4/3. Its
            ``backend`` may be 'torch' too: Pillow's antialiased filters, to a
            grey level, for 'bilinear' and 'bicubic'.
    """

    def __init__(self, scale: Any, **kwargs: Any) -> None:
        super().__init__(scale, **kwargs)
        if self.backend == 'torch' and self.interpolation not in _FILTERS:
            raise UserError(
                f"{type(self).__name__}: backend='torch' has the filters "
                f'{_FILTERS}, but interpolation={self.interpolation!r}: take '
                "one of them, or backend='pillow'")

    def transform(self, results: dict) -> dict:
        """Crop and resize."""
        box = self.rand_crop_params(results['img'])
        results['img'] = self.crop(results['img'], box)
        results['img_shape'] = results['img'].shape[:2]
        return results

    def crop(self, image: np.ndarray,
             box: tuple[int, int, int, int]) -> np.ndarray:
        """Crop an image to a box and resize it.

        Args:
            image (np.ndarray): Shape (H, W, 3), uint8.
            box (tuple[int, int, int, int]): Top, left, height and width.

        Returns:
            np.ndarray: Of the output size, (h, w, 3), uint8.
        """
        top, left, height, width = box
        part = image[top:top + height, left:left + width]
        if self.backend != 'torch':
            return mmcv.imresize(
                part,
                tuple(self.scale[::-1]),
                interpolation=self.interpolation,
                backend=self.backend)
        rows, columns = self.scale
        return resize(torch.from_numpy(part), (rows, columns),
                      self.interpolation).numpy()


@TRANSFORMS.register_module()
class FastRandomFlip(RandomFlip):
    """mmcv's ``RandomFlip`` with an image whose memory is in order.

    mmcv gives a view with negative strides, of which whatever comes next
    makes a copy, pixel by pixel. Arguments as there.
    """

    def _flip(self, results: dict) -> None:
        """Flip all that there is to flip."""
        image = results['img']
        super()._flip(results)
        results['img'] = cv2.flip(image, _AXES[results['flip_direction']])


@TRANSFORMS.register_module()
class FastColorJitter(ColorJitter):
    """mmpretrain's ``ColorJitter`` by OpenCV, as Pillow would have it.

    Args:
        brightness (float or tuple[float, float]): As of ``ColorJitter``, and
            so are the others. Defaults to 0.
        contrast (float or tuple[float, float]): Defaults to 0.
        saturation (float or tuple[float, float]): Defaults to 0.
        hue (float or tuple[float, float]): Defaults to 0.
    """

    def __init__(self,
                 brightness: Any = 0.,
                 contrast: Any = 0.,
                 saturation: Any = 0.,
                 hue: Any = 0.) -> None:
        super().__init__(brightness, contrast, saturation, hue)

    def transform(self, results: dict) -> dict:
        """Change the four in random order."""
        order, *factors = self._rand_params()
        for kind in order:
            if factors[kind] is not None:
                results['img'] = colour.JITTER[kind](results['img'],
                                                     factors[kind])
        return results


@TRANSFORMS.register_module()
class FastRandomGrayscale(RandomGrayscale):
    """mmcv's ``RandomGrayscale`` by OpenCV; arguments as there."""

    def transform(self, results: dict) -> dict:
        """Make the image grey, maybe."""
        if not self.keep_channels or self.color_format != 'bgr':
            return super().transform(results)
        if self._random_prob() < self.prob:
            results['img'] = colour.grey(results['img'], self.channel_weights)
        return results


@TRANSFORMS.register_module()
class FastGaussianBlur(GaussianBlur):
    """mmpretrain's ``GaussianBlur`` by OpenCV; arguments as there."""

    def transform(self, results: dict) -> dict:
        """Blur the image, maybe."""
        if self.random_disable():
            return results
        sigma = (self.random_magnitude() if self.radius is None else
                 self.radius)
        if sigma > 0:
            results['img'] = colour.blur(results['img'], sigma)
        return results


@TRANSFORMS.register_module()
class FastSolarize(Solarize):
    """mmpretrain's ``Solarize`` by a table; arguments as there."""

    def transform(self, results: dict) -> dict:
        """Invert what is bright, maybe."""
        if self.random_disable():
            return results
        threshold = self.random_magnitude() if self.thr is None else self.thr
        results['img'] = colour.solarise(results['img'], threshold)
        return results
