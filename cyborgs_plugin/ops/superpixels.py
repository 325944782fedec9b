"""Superpixels of a picture on a grid of cells, and means over them."""
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .kmeans import sums_by_label


class _Option(NamedTuple):
    """An option of scikit-image's function, and its valid values."""

    default: float
    kind: type
    least: float


_POSITIVE = 1e-6
_OPTIONS: dict[str, dict[str, _Option]] = dict(
    Felzenszwalb=dict(
        scale=_Option(60, float, _POSITIVE),
        sigma=_Option(0.6, float, 0),
        min_size=_Option(60, int, 1)),
    SLIC=dict(
        n_segments=_Option(100, int, 1),
        compactness=_Option(10, float, _POSITIVE),
        sigma=_Option(0, float, 0),
        max_num_iter=_Option(10, int, 1)))
_LAB_SCALE = 50.
"""Scales colours to the range of positions: lightness is 0 to 100."""


class Superpixels(NamedTuple):
    """The superpixels of a picture, S of them, on its h x w cells."""

    ids: np.ndarray
    """Superpixel of each cell, 0 to S - 1, all of them there; (h, w),
    int64."""
    counts: np.ndarray
    """Cells of each, (S, ), float32."""
    places: np.ndarray
    """Mean row and column of its cells, -1 to 1 across the picture, (S, 2),
    float32."""
    colours: np.ndarray
    """Mean colour of its pixels, CIELAB / 50, (S, 3), float32."""


def find_superpixels(image: np.ndarray,
                     type: str = 'Felzenszwalb',
                     stride: int = 8,
                     reduction: int = 2,
                     **options: Any) -> Superpixels:
    """Cut a picture into superpixels (scikit-image).

    Superpixels are found on the reduced picture. A cell belongs to the
    superpixel at its centre; superpixels without a cell are left out.

    Args:
        image (np.ndarray): BGR, shape (H, W, 3), uint8.
        type (str): 'Felzenszwalb' (Felzenszwalb and Huttenlocher, 2004) or
            'SLIC' (Achanta et al., 2012). Defaults to 'Felzenszwalb'.
        stride (int): Pixels of the picture on each side of a cell.
            Defaults to 8.
        reduction (int): Factor by which the picture is reduced first, a
            divisor of ``stride``. Defaults to 2.
        **options: Arguments of ``skimage.segmentation.felzenszwalb`` (by
            default ``scale=60, sigma=0.6, min_size=60``) or ``slic``
            (``n_segments=100, compactness=10, sigma=0, max_num_iter=10``),
            which count the pixels of the reduced picture.

    Returns:
        Superpixels: On ceil(H / stride) times ceil(W / stride) cells.
    """
    height, width = (-(-side // stride) for side in image.shape[:2])
    part = stride // reduction
    small = cv2.resize(image, (width * part, height * part),
                       interpolation=cv2.INTER_AREA)
    pixels = _cut(small[..., ::-1], type, options)
    middle = pixels[part // 2::part, part // 2::part]
    known, ids = np.unique(middle, return_inverse=True)
    ids = ids.reshape(height, width)
    places = np.stack(np.meshgrid(
        *((2 * np.arange(side) + 1) / side - 1 for side in (height, width)),
        indexing='ij'), axis=-1)
    return Superpixels(
        ids, np.bincount(ids.ravel()).astype(np.float32),
        _means(places, ids),
        _means(_lab(small), pixels)[known])


def check_superpixels(type: str = 'Felzenszwalb',
                      stride: int = 8,
                      reduction: int = 2,
                      **options: Any) -> None:
    """Refuse invalid arguments of :func:`find_superpixels`.

    Raises:
        ValueError: If one is invalid; the message says what was expected.
    """
    if not isinstance(type, str) or type not in _OPTIONS:
        raise ValueError(f'type must be one of {[*_OPTIONS]}, but is {type!r}')
    sides = dict.fromkeys(('stride', 'reduction'), _Option(1, int, 1))
    known = sides | _OPTIONS[type]
    for name, value in dict(
            stride=stride, reduction=reduction, **options).items():
        if name not in known:
            raise ValueError(f'{name} is no option of {type}; expected some '
                             f'of {[*known]}')
        _check(name, value, known[name])
    if stride % reduction:
        raise ValueError(f'stride must be a multiple of reduction={reduction},'
                         f' but is {stride}')


def _check(name: str, value: object, option: _Option) -> None:
    kinds = (int, ) if option.kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not (
            option.least <= value < math.inf):
        kind = 'a whole number' if option.kind is int else 'a number'
        least = ('above 0' if option.least == _POSITIVE else
                 f'of {option.least} or more')
        raise ValueError(f'{name} must be {kind} {least}, such as '
                         f'{option.default}, but is {value!r}')


def cell_colours(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean colour of each cell of a picture.

    Args:
        image (np.ndarray): BGR, shape (H, W, 3), uint8.
        size (tuple[int, int]): Rows and columns of cells (h, w).

    Returns:
        np.ndarray: CIELAB / 50, shape (h, w, 3), float32.
    """
    return _lab(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


def pool(maps: Tensor, ids: Tensor, number: int) -> Tensor:
    """Mean over each superpixel of a map of features.

    Args:
        maps (Tensor): Shape (h', w', C), floating point; interpolated
            bilinearly to the cells of ``ids`` if it has others.
        ids (Tensor): Superpixel of each cell, shape (h, w), int64.
        number (int): Number S of superpixels, each with at least one cell.

    Returns:
        Tensor: Shape (S, C), dtype of ``maps``.
    """
    if maps.shape[:2] != ids.shape:
        maps = F.interpolate(
            maps.permute(2, 0, 1)[None], ids.shape, mode='bilinear',
            align_corners=False)[0].permute(1, 2, 0)
    labels = ids.flatten()
    counts = torch.bincount(labels, minlength=number)
    return sums_by_label(maps.flatten(0, 1), labels, number) / counts[:, None]


def _cut(image: np.ndarray, type: str, options: dict[str, Any]
         ) -> np.ndarray:
    """Superpixel of each RGB pixel, (H, W)."""
    from skimage import segmentation
    merged = {
        name: option.default
        for name, option in _OPTIONS[type].items()
    } | options
    if type == 'Felzenszwalb':
        return segmentation.felzenszwalb(image, **merged)
    return segmentation.slic(image, start_label=0, **merged)


def _lab(image: np.ndarray) -> np.ndarray:
    """Colours of BGR pixels, uint8, in CIELAB / 50, float32."""
    unit = image.astype(np.float32) / 255
    return cv2.cvtColor(unit, cv2.COLOR_BGR2LAB) / _LAB_SCALE


def _means(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Mean of values (..., C) by id (...), (S, C), float32."""
    labels = ids.ravel()
    sums = [np.bincount(labels, channel.ravel())
            for channel in np.moveaxis(values, -1, 0)]
    counts = np.bincount(labels)
    return (np.stack(sums, axis=1) / counts[:, None]).astype(np.float32)
