"""Colours of one view, by OpenCV on bytes: the fast way on a CPU.

Each function gives the same result as Pillow in mmpretrain's transforms, to
within a grey level or two (hue: a few if a pixel is saturated);
``batch_colour.py`` does the same for a batch on any device.
"""
import math

import cv2
import numpy as np

from .view_draws import Colours, ViewLaw

_CUT = -0.499
"""Makes OpenCV, which rounds, truncate fractions as Pillow does."""


def recolour(image: np.ndarray, law: ViewLaw, colours: Colours,
             row: int) -> np.ndarray:
    """Change the colours of a view as drawn.

    Args:
        image (np.ndarray): BGR, (H, W, 3), uint8.
        law (ViewLaw): The distribution that the colours were drawn from.
        colours (Colours): Draws for several views.
        row (int): Index of the view.

    Returns:
        np.ndarray: (H, W, 3), uint8; the image itself if nothing is changed.
    """
    if colours.jitter[row]:
        factors = colours.factors[row].tolist()
        for kind in colours.order[row].tolist():
            if kind != 3 or law.hue != (0., 0.):
                image = JITTER[kind](image, factors[kind])
    if colours.grey[row]:
        image = grey(image, law.grey_weights)
    if colours.sigma[row] > 0:
        image = blur(image, float(colours.sigma[row]))
    if colours.solarise[row]:
        image = solarise(image, law.threshold)
    return image


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by a factor."""
    return cv2.addWeighted(image, factor, image, 0., _CUT)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Move pixels away from the mean grey of the image, or towards it."""
    own = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    mean = int(cv2.mean(own)[0] + 0.5)  # type: ignore[index]
    return cv2.addWeighted(image, factor, image, 0.,
                           mean * (1 - factor) + _CUT)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Move pixels away from their own grey, or towards it."""
    own = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return cv2.addWeighted(image, factor, cv2.merge([own, own, own]),
                           1 - factor, _CUT)


def hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Rotate the hues."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    shift = np.zeros(hsv.shape[1:], np.uint8)
    shift[:, 0] = int(turns * 255) % 256
    # Row by row, which is faster than every third byte; bytes wrap around.
    rows = hsv.reshape(len(hsv), -1)
    np.add(rows, shift.ravel(), out=rows)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


JITTER = (brightness, contrast, saturation, hue)
"""In the order in which ``Colours.factors`` and ``ColorJitter`` have them."""


def grey(image: np.ndarray,
         weights: tuple[float, float, float]) -> np.ndarray:
    """Make the channels equal: their weighted sum (BGR), truncated."""
    row = np.array([[*weights, 0.]]) / sum(weights)
    row[0, 3] = _CUT
    own = cv2.transform(image, row)
    return cv2.merge([own, own, own])


def blur_kernel(sigma: float, reach: int | None = None) -> np.ndarray:
    """Make the kernel of Pillow's Gaussian blur: three successive boxes.

    The boxes have soft edges, and their length gives the variance exactly
    (Gwosdek et al., Theoretical Foundations of Gaussian Convolution by
    Extended Box Filtering, 2011).

    Args:
        sigma (float): In pixels, above 0.
        reach (int, optional): Pixels of a box on each side of its centre.
            Defaults to None, as many as needed.

    Returns:
        np.ndarray: (6 * reach + 1, ).
    """
    variance = sigma**2 / 3
    whole = _whole(variance)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (
        6 * (variance - (whole + 1)**2))
    reach = whole + 1 if reach is None else reach
    box = np.zeros(2 * reach + 1)
    box[reach - whole - 1:reach + whole + 2] = part
    box[reach - whole:reach + whole + 1] = 1.
    box /= 2 * (whole + part) + 1
    return np.convolve(np.convolve(box, box), box)


def _whole(variance: float) -> int:
    """The number of whole pixels of a box on each side of its centre."""
    return int((math.sqrt(12 * variance + 1) - 1) / 2)


def blur_kernels(sigma: np.ndarray) -> np.ndarray:
    """Make the kernels of several blurs, of one length.

    Args:
        sigma (np.ndarray): In pixels, (N, ), above 0.

    Returns:
        np.ndarray: (N, K), K odd; (0, 1) for no blurs.
    """
    if not len(sigma):
        return np.zeros((0, 1))
    reach = _whole(sigma.max()**2 / 3) + 1
    return np.stack([blur_kernel(one, reach) for one in sigma.tolist()])


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of ``sigma`` pixels, with Pillow's kernel."""
    kernel = blur_kernel(sigma).astype(np.float32)
    return cv2.sepFilter2D(
        image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def solarise(image: np.ndarray, threshold: float) -> np.ndarray:
    """Invert what reaches a threshold."""
    level = np.arange(256)
    table = np.where(level < threshold, level, 255 - level)
    return cv2.LUT(image, table.astype(np.uint8))
