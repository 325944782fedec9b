"""Faster versions of mmpretrain's transforms of colours and crops.

Each draws the same numbers as its parent, with the same calls of the same
generators, and gives the same picture as Pillow, to within a grey level or
two. ``ops/colour.py`` and torch's kernel for bytes replace Pillow.
docs/performance.md shows how much time that saves.
"""
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import RandomFlip, RandomGrayscale
from mmcv.transforms.utils import cache_randomness
from mmpretrain.datasets import (
    ColorJitter,
    GaussianBlur,
    PackInputs,
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
    """Crop and resize; ``backend='torch'`` does what Pillow does, faster.

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
        part = np.ascontiguousarray(part)  # torch has no negative strides
        return resize(torch.from_numpy(part), (rows, columns),
                      self.interpolation).numpy()


@TRANSFORMS.register_module()
class FastRandomFlip(RandomFlip):
    """mmcv's ``RandomFlip``, returning arrays with contiguous memory.

    mmcv returns views with negative strides, which the next step must copy
    pixel by pixel. The arguments are the same.
    """

    @cache_randomness
    def _choose_direction(self) -> str | None:
        """Draw like mmcv; a single direction needs only a sum."""
        if isinstance(self.prob, float) and isinstance(self.direction, str):
            return self.direction if np.random.random() < self.prob else None
        return super()._choose_direction()

    def _flip(self, results: dict) -> None:
        """Flip everything that can be flipped."""
        axis = _AXES[results['flip_direction']]
        image, label_map = results['img'], results.get('gt_seg_map')
        super()._flip(results)
        results['img'] = cv2.flip(image, axis)
        if (label_map is not None and self.swap_seg_labels is None
                and label_map.dtype in (np.uint8, np.uint16, np.int32)):
            results['gt_seg_map'] = cv2.flip(label_map, axis)


@TRANSFORMS.register_module()
class FastColorJitter(ColorJitter):
    """mmpretrain's ``ColorJitter`` with OpenCV, with Pillow's results.

    Args:
        brightness (float or tuple[float, float]): See ``ColorJitter``, also
            for the other arguments. Defaults to 0.
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
    """mmcv's ``RandomGrayscale`` with OpenCV and the same arguments."""

    def transform(self, results: dict) -> dict:
        """Make the image grey, with some probability."""
        if not self.keep_channels or self.color_format != 'bgr':
            return super().transform(results)
        if self._random_prob() < self.prob:
            results['img'] = colour.grey(results['img'], self.channel_weights)
        return results


@TRANSFORMS.register_module()
class FastGaussianBlur(GaussianBlur):
    """mmpretrain's ``GaussianBlur`` with OpenCV and the same arguments."""

    def transform(self, results: dict) -> dict:
        """Blur the image, with some probability."""
        if self.random_disable():
            return results
        sigma = (self.random_magnitude() if self.radius is None else
                 self.radius)
        if sigma > 0:
            results['img'] = colour.blur(results['img'], sigma)
        return results


@TRANSFORMS.register_module()
class FastSolarize(Solarize):
    """mmpretrain's ``Solarize`` with a table and the same arguments."""

    def transform(self, results: dict) -> dict:
        """Invert bright pixels, with some probability."""
        if self.random_disable():
            return results
        threshold = self.random_magnitude() if self.thr is None else self.thr
        results['img'] = colour.solarise(results['img'], threshold)
        return results


@TRANSFORMS.register_module()
class FastPackInputs(PackInputs):
    """mmpretrain's ``PackInputs`` with faster conversion to planes.

    **Optional Keys:** ``teacher`` (np.ndarray), which the data sample holds
    as a tensor
    """

    def transform(self, results: dict) -> dict:
        """Pack."""
        packed = super().transform(results)
        if 'teacher' in results:
            packed['data_samples'].set_field(
                torch.from_numpy(results['teacher']), 'teacher')
        return packed

    @staticmethod
    def format_input(input_: Any) -> Any:
        """Make a tensor (C, H, W) of an image, or one of each in a list."""
        if isinstance(input_, list):
            return [FastPackInputs.format_input(one) for one in input_]
        if (not isinstance(input_, np.ndarray) or input_.ndim != 3
                or input_.dtype != np.uint8):
            return PackInputs.format_input(input_)
        planes = np.empty((input_.shape[2], *input_.shape[:2]), input_.dtype)
        cv2.split(input_, list(planes))
        return torch.from_numpy(planes)
