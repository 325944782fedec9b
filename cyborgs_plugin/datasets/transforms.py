"""Transforms that move an image and its label map together."""
import copy
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.datasets import MultiView
from mmpretrain.registry import TRANSFORMS

from ..ops.label_maps import crop_label_map
from .fast_transforms import FastRandomResizedCrop
from .image_io import read_image


@TRANSFORMS.register_module()
class LoadSceneImage(BaseTransform):
    """Load a photograph of any supported type as an upright BGR image.

    **Required Keys:** ``img_path``

    **Optional Keys:** ``image_options`` (dict), further arguments of
    :func:`read_image`, which ``SceneDataset`` sets

    **Added Keys:** ``img`` (np.ndarray, (H, W, 3), uint8), ``img_shape`` and
    ``ori_shape`` (tuple[int, int])

    Args:
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.

    Raises:
        BrokenImageError: If the file is not a complete image; ``SceneDataset``
            then uses another one.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load the image."""
        image = read_image(results['img_path'], self.backend_args,
                           **results.get('image_options', {}))
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class MaskedRandomResizedCrop(FastRandomResizedCrop):
    """Crop and resize an image together with its label map.

    The label map may have any size, such as the stride-8 grid of a mask bank.
    The result is the same as if it had first been enlarged to the image by
    nearest sampling.

    **Required Keys:** ``img``

    **Optional Keys:** ``gt_seg_map`` (integer, (h, w)), absent where a model
    needs no masks

    **Modified Keys:** ``img``, ``img_shape``, ``gt_seg_map`` (now of the
    output size)

    **Added Keys:** ``view_box`` (tuple[float, float, float, float]): top,
    left, height and width of the crop, as parts of the image's sides

    Args:
        scale (int or Sequence[int]): Output size, (height, width) or a
            square's side.
        **kwargs: Arguments of ``FastRandomResizedCrop``, by default an area
            of 0.08 to 1 and an aspect ratio of 3/4 to 4/3.
    """

    def transform(self, results: dict) -> dict:
        """Crop and resize."""
        image = results['img']
        box = self.rand_crop_params(image)
        sides = 2 * image.shape[:2]
        results['view_box'] = tuple(
            part / side for part, side in zip(box, sides))
        if 'gt_seg_map' in results:
            results['gt_seg_map'] = crop_label_map(
                results['gt_seg_map'], image.shape[:2], box,
                tuple(self.scale))
        results['img'] = self.crop(image, box)
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class MaskedMultiView(MultiView):
    """Make several views, each with its label map.

    **Required Keys:** ``img``

    **Optional Keys:** ``gt_seg_map``; ``teacher`` (Callable): gives what a
    teacher sees of the image in a view, by its box, size and flip

    **Modified Keys:** ``img`` (list of V images), ``teacher`` (float16,
    (V, C, h, w))

    **Added Keys:** ``mask`` (integer, (V, H, W)), which ``PackInputs`` puts
    into the data sample; not without ``gt_seg_map``

    Args:
        transforms (list[list[dict]]): A pipeline for each kind of view.
        num_views (int or list[int]): How many views each pipeline makes.
    """

    def transform(self, results: dict) -> dict:
        """Make the views."""
        teacher = results.pop('teacher', None)
        views = [pipeline(_copy(results, pipeline.transforms[:1]))
                 for pipeline in self.transforms]
        results['img'] = [view['img'] for view in views]
        if 'gt_seg_map' in results:
            mask = np.stack([view['gt_seg_map'] for view in views])
            # torch can store uint16 but hardly compute with it.
            results['mask'] = (
                mask.astype(np.int32) if mask.dtype == np.uint16 else mask)
        if teacher is not None:
            results['teacher'] = np.stack([
                teacher(view['view_box'], view['img'].shape[:2],
                        view.get('flip_direction')) for view in views
            ]).astype(np.float16)
        return results


def _copy(results: dict, first: Sequence[BaseTransform]) -> dict:
    """Copy what a pipeline with this first transform might change."""
    kept = {}
    if first and isinstance(first[0], FastRandomResizedCrop):
        # which makes new arrays: photographs are large
        kept = {id(value): value for value in results.values()
                if isinstance(value, np.ndarray)}
    return copy.deepcopy(results, kept)
