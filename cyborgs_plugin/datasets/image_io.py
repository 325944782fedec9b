"""Reading photographs: one way for training and for the mask rounds."""

import mmcv
import numpy as np
from mmengine.fileio import get

IMG_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp',
                  '.ppm', '.pgm')


class BrokenImageError(OSError):
    """A file that cannot be decoded as a whole image."""


def read_image(path: str, backend_args: dict | None = None) -> np.ndarray:
    """Read an image as three channels of eight bits, upright.

    Grey, alpha, palette, CMYK and 16-bit images are converted (16 bits to
    their upper eight) and the EXIF orientation is applied, so that the label
    map of a mask round and the training image always agree.

    Args:
        path (str): Path or URI of the file.
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.

    Returns:
        np.ndarray: BGR image, shape (H, W, 3), uint8.

    Raises:
        BrokenImageError: If the file is missing, empty, truncated or not an
            image.
    """
    try:
        content = get(path, backend_args=backend_args)
    except OSError as error:
        raise BrokenImageError(f'{path}: cannot be read ({error})') from error
    problem = _truncation(content)
    if problem is None:
        try:
            image = mmcv.imfrombytes(content, flag='color', backend='cv2')
        except Exception as error:  # cv2.error is raised on empty input
            raise BrokenImageError(f'{path}: {error}') from error
        if image is not None:
            return image
        problem = 'not an image that OpenCV can decode'
    raise BrokenImageError(f'{path}: {problem} ({len(content)} bytes)')


def at_long_side(image: np.ndarray, long_side: int) -> np.ndarray:
    """Enlarge or reduce an image to a long side, keeping its shape.

    Args:
        image (np.ndarray): Shape (H, W, 3), uint8.
        long_side (int): The longer of height and width, in pixels.

    Returns:
        np.ndarray: Bilinear where it grows, the mean of what each pixel
        covers where it shrinks.
    """
    size = mmcv.rescale_size(image.shape[1::-1], (long_side, long_side))
    grows = max(image.shape[:2]) < long_side
    return mmcv.imresize(
        image, [max(1, side) for side in size],
        interpolation='bilinear' if grows else 'area')


def _truncation(content: bytes) -> str | None:
    """Say what is missing of a JPEG or PNG, which OpenCV fills with grey."""
    if not content:
        return 'an empty file'
    # 0xFF is stuffed inside a scan, so an end marker after the last start of
    # scan can only be the true one (thumbnails come earlier).
    if (content.startswith(b'\xff\xd8')
            and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda')):
        return 'a truncated JPEG (no end marker after the last scan)'
    if content.startswith(b'\x89PNG') and b'IEND' not in content[-4096:]:
        return 'a truncated PNG (no IEND chunk)'
    return None
