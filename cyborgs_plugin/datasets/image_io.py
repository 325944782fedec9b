"""Reading photographs, in the same way for training and mask rounds.

A table in docs/data.md lists what is read, repaired and refused.
"""
import contextlib
import math
import os
import re
import stat
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, Literal

import cv2
import mmcv
import numpy as np
from mmengine.fileio import LocalBackend, get, get_file_backend
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from .far_shards import is_far, read_far
from .shards import MisplacedError, parse_address, read_local

READS_HEIF = False
with contextlib.suppress(ImportError):  # the extra `heif`
    import pillow_heif
    pillow_heif.register_heif_opener()
    READS_HEIF = True

HEIF_EXTENSIONS = ('.heic', '.heif')
IMG_EXTENSIONS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif',
                  '.tiff', '.webp', '.ppm', '.pgm', '.pbm', '.pnm', '.gif',
                  '.jp2', '.avif', *(HEIF_EXTENSIONS if READS_HEIF else ()))
MAX_PIXELS = 100_000_000
DEPTH_SCALINGS = ('range', 'upper')

# The decoder leaves out frequencies: libjpeg's scaled inverse transforms.
_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2
}
_JPEG, _PNG = b'\xff\xd8', b'\x89PNG\r\n\x1a\n'
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # the last: BigTIFF
# OpenCV's readers of these are new and differ between versions.
_BY_PILLOW = {'GIF', 'AVIF', 'HEIF'}
# Not PostScript, for which Pillow starts other programs; not raw photographs,
# which look like TIFF and contain small previews.
_KINDS = ('BMP', 'WEBP', 'PPM', 'JPEG2000', *_BY_PILLOW)
# In a scan 0xFF is followed by 0x00 or a restart marker unless the scan ends.
# All others but the end have a length.
_MARKER = re.compile(rb'\xff[\x02-\xcf\xd8-\xfe]')
_FRAMES = {*range(0xc0, 0xd0)} - {0xc4, 0xc8, 0xcc}
_LOOKS = {
    rb'version https://git-lfs': 'a Git LFS pointer in place of the file: '
    'git lfs pull fetches it',
    rb'\s*(<!doctype html|<html)': 'an HTML page, such as a failed download '
    'leaves',
    rb'\s*<': 'an XML or SVG text',
    rb'%PDF': 'a PDF',
    rb'PK\x03\x04': 'a ZIP archive',
    rb'\xff\xd8': 'a damaged JPEG',
    rb'\x89PNG': 'a damaged or truncated PNG',
    rb'II[*+]\0|MM\0[*+]': 'a TIFF, or a raw photograph, that neither OpenCV '
    'nor Pillow can read: save it as TIFF of 8 or 16 bits',
    rb'....ftyp(hei|hev|mif1|msf1)': 'a damaged HEIC' if READS_HEIF else
    'an HEIC: pip install pillow-heif reads it',
    rb'....ftyp(?!avi|jp2)': 'a video',
    rb'\0+$': 'nothing but zeros, such as a copy that failed leaves',
    rb'[\t\n\r -~]+$': 'a text',
}


class BrokenImageError(UserError, OSError):
    """A file that cannot be decoded as a complete image."""


def read_image(path: str,
               backend_args: dict | None = None,
               max_pixels: int = MAX_PIXELS,
               depth_scaling: str = 'range',
               least_side: int | None = None,
               held: Callable[[str], np.ndarray | None] | None = None,
               listed_by: str = '',
               cache: dict | None = None) -> np.ndarray:
    """Read an image as three channels of eight bits, upright.

    Grey, alpha, palette, CMYK and deeper images are converted, and the EXIF
    orientation is applied, so that the label map of a mask round and the
    training image always agree. The content of a file decides its type. If
    there are several frames, the first is read.

    Args:
        path (str): Path or URI of the file; or the address of a photograph in
            a tar file, as ``shards.address`` writes it.
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.
        max_pixels (int): Refuse an image of more pixels, before it is
            decoded. Defaults to 100 million.
        depth_scaling (str): Which values of pixels with more than eight bits
            become 0 to 255: 'range', the range of the image's values without
            the lowest and the highest thousandth, or 'upper', 0 to 65535
            (which refuses images that do not have 16 bits). Defaults to
            'range', since cameras store 12 bits in 16, and thermal cameras use
            only a small part of them.
        least_side (int, optional): Decode a JPEG at 1/2, 1/4 or 1/8 of its
            sides: the smallest for which the square root of its number of
            pixels stays above this. Defaults to None, in full.
        held (Callable, optional): Function that returns an already decoded
            image by its path, or None for other images, which are then read.
            Defaults to None.
        listed_by (str): What to say of a file that cannot be found: which
            index lists it. Defaults to ''.
        cache (dict, optional): Where photographs of tar files in a store are
            kept: ``cache`` and ``cache_gb`` of ``far_shards.read_far``.
            Defaults to None, nowhere.

    Returns:
        np.ndarray: BGR image, shape (H, W, 3), uint8.

    Raises:
        BrokenImageError: If the file is missing, empty, truncated, not an
            image, not a regular file, or has too many pixels.
    """
    image = None if held is None else held(path)
    if image is not None:
        return image
    check_options(max_pixels, depth_scaling)
    content = _content(path, backend_args, listed_by, cache)
    try:
        return _decode(content, max_pixels, depth_scaling, least_side)
    except BrokenImageError as error:
        raise BrokenImageError(f'{path}: {error}') from error
    except Exception as error:  # the decoders raise all kinds
        raise BrokenImageError(
            f'{path}: {_describe(content)} ({error!r})') from error


def check_options(max_pixels: int, depth_scaling: str) -> None:
    """Refuse invalid options of :func:`read_image`."""
    if not isinstance(max_pixels, int) or max_pixels < 1:
        raise UserError('max_pixels must be a number of pixels, such as '
                        f'{MAX_PIXELS}, but is {max_pixels!r}')
    if depth_scaling not in DEPTH_SCALINGS:
        raise UserError(f'depth_scaling must be one of {DEPTH_SCALINGS}, but '
                        f'is {depth_scaling!r}')


def describe_file(path: str, backend_args: dict | None = None) -> str:
    """Describe a file that is not an image.

    Args:
        path (str): Path or URI of the file.
        backend_args (dict, optional): Arguments of the file backend.
            Defaults to None.

    Returns:
        str: Such as 'an empty file' or 'an HTML page'.
    """
    try:
        return _describe(_content(path, backend_args))
    except BrokenImageError as error:
        return str(error).removeprefix(f'{path}: ')


def is_image(path: str) -> bool:
    """Whether a local file begins like an image, whatever its name.

    TIFF is not recognised, because raw photographs begin with the same bytes.
    """
    try:
        with Image.open(path, formats=_known(('JPEG', 'PNG', *_KINDS))):
            return True
    except Image.DecompressionBombError:
        return True  # refused by name when it is read
    except Exception:  # Pillow raises all kinds for a file that is none
        return False


def header_size(source: str | BinaryIO) -> tuple[int, int]:
    """Height and width of an image by its header, upright.

    Args:
        source (str or BinaryIO): A local file, or the beginning of one.

    Returns:
        tuple[int, int]: (0, 0) if Pillow cannot read them.
    """
    try:
        with Image.open(source) as picture:
            width, height = picture.size
            lies = _orientation(picture) in (5, 6, 7, 8)
    except Exception:  # Pillow raises all kinds, and reads fewer than OpenCV
        return 0, 0
    return (width, height) if lies else (height, width)


def at_long_side(image: np.ndarray, long_side: int) -> np.ndarray:
    """Enlarge or reduce an image to a long side, keeping its shape.

    Args:
        image (np.ndarray): Shape (H, W, 3), uint8.
        long_side (int): The longer of height and width, in pixels.

    Returns:
        np.ndarray: Enlarged bilinearly; reduced by the mean of the pixels that
        each new pixel covers.
    """
    size = mmcv.rescale_size(image.shape[1::-1], (long_side, long_side))
    grows = max(image.shape[:2]) < long_side
    return mmcv.imresize(
        image, [max(1, side) for side in size],
        interpolation='bilinear' if grows else 'area')


def _content(path: str, backend_args: dict | None,
             listed_by: str = '', cache: dict | None = None) -> bytes:
    """Read a regular file; a pipe would never end."""
    try:
        if (place := parse_address(path)) is not None:
            return read_far(place, **cache or {}) if is_far(
                place.shard) else read_local(place)
        local = isinstance(
            get_file_backend(
                path, backend_args=backend_args, enable_singleton=True),
            LocalBackend)
        if local and not stat.S_ISREG(os.stat(path).st_mode):
            raise BrokenImageError(
                f'{path}: a folder, a pipe or a device, no regular file')
        return get(path, backend_args=backend_args)
    except BrokenImageError:
        raise
    except MisplacedError as error:
        raise BrokenImageError(f'{path}: {error}{listed_by}') from error
    except OSError as error:
        raise BrokenImageError(
            f'{path}: cannot be read ({error}){listed_by}') from error


def _decode(content: bytes, max_pixels: int, depth_scaling: str,
            least_side: int | None) -> np.ndarray:
    """Decode what :func:`read_image` reads; shape (H, W, 3), uint8."""
    if not content:
        raise BrokenImageError('an empty file')
    picture, whole = None, True
    if content.startswith(_JPEG):
        size, whole = _walk_jpeg(content)
    elif content.startswith(_PNG):
        size = (int.from_bytes(content[16:20], 'big'),
                int.from_bytes(content[20:24], 'big'))
    elif content.startswith(_TIFF):
        size = _tiff_size(content)
    else:
        try:
            picture = Image.open(BytesIO(content), formats=_known(_KINDS))
        except Image.DecompressionBombError as error:
            raise BrokenImageError(str(error)) from error
        except UnidentifiedImageError as error:
            raise _unreadable(content) from error
        size = picture.size
    if size[0] * size[1] > max_pixels:
        raise BrokenImageError(
            f'{size[0]} x {size[1]} pixels, more than max_pixels={max_pixels}')
    if not whole:
        _check_end(content)
    # OpenCV turns only JPEG, PNG and TIFF upright.
    if picture is not None and (
            picture.format in _BY_PILLOW or _orientation(picture) != 1):
        return _by_pillow(picture)
    flag = cv2.IMREAD_COLOR
    if content.startswith(_JPEG) and least_side:
        room = math.sqrt(size[0] * size[1]) / least_side
        flag = next((reduced for times, reduced in _REDUCED.items()
                     if room >= times), flag)
    elif depth_scaling == 'range':
        flag |= cv2.IMREAD_ANYDEPTH
    image = mmcv.imfrombytes(content, flag=flag, backend='cv2')
    if image is None and content.startswith(_TIFF) and (depth_scaling
                                                        == 'range'):
        # OpenCV does not convert grey floats to colours, and Pillow does not
        # read colour floats.
        image = mmcv.imfrombytes(content, flag='unchanged', backend='cv2')
        if image is None:
            image = np.asarray(Image.open(BytesIO(content)))
    if image is None:
        raise _unreadable(content)
    return image if image.dtype == np.uint8 else _to_eight_bits(image)


def _walk_jpeg(content: bytes) -> tuple[tuple[int, int], bool]:
    """Width and height of a JPEG, and whether its end marker is there.

    Goes from segment to segment like a decoder. Embedded thumbnails, and data
    after the end, such as the film of a motion photo, do not count. If the
    file ends with the marker, scans are not searched for it.
    """
    size, at, ends = (0, 0), 2, content.endswith(b'\xff\xd9')
    while found := _MARKER.search(content, at):
        marker, at = content[found.start() + 1], found.end()
        if marker == 0xd9 or marker == 0xda and ends:
            return size, True
        if marker in _FRAMES and size == (0, 0):
            size = (int.from_bytes(content[at + 5:at + 7], 'big'),
                    int.from_bytes(content[at + 3:at + 5], 'big'))
        at += int.from_bytes(content[at:at + 2], 'big')
    return size, False


def _check_end(content: bytes) -> None:
    """Refuse a JPEG without its end if the decoder lacks data.

    OpenCV before 4.12 fills the missing part with grey. A failed copy fills it
    with zeros, which a decoder would treat as data.
    """
    try:
        Image.open(BytesIO(content.rstrip(b'\0')), formats=['JPEG']).load()
    except Exception as error:
        raise BrokenImageError(
            f'a truncated JPEG ({len(content)} bytes): {error}') from error


def _tiff_size(content: bytes) -> tuple[int, int]:
    """Width and height of a TIFF or BigTIFF, not all of which Pillow opens."""
    order: Literal['little', 'big'] = ('little' if content[:1] == b'I' else
                                       'big')

    def number(at: int, size: int) -> int:
        return int.from_bytes(content[at:at + size], order)

    big = number(2, 2) == 43
    word, head, entry = (8, 8, 20) if big else (4, 2, 12)
    at, tags = number(word, word), {}
    end = min(at + head + entry * number(at, head), len(content))
    for start in range(at + head, end, entry):
        # Of type byte, short, long or (in BigTIFF) long of 8 bytes.
        size = {1: 1, 3: 2, 4: 4, 16: 8}.get(number(start + 2, 2), 0)
        tags[number(start, 2)] = number(start + 4 + word, size)
    return tags[256], tags[257]


def _known(kinds: tuple[str, ...]) -> list[str]:
    """The types that this version of Pillow reads."""
    Image.init()
    return [kind for kind in kinds if kind in Image.OPEN]


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation of a picture; 1, upright, if there is none."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # for EXIF that is damaged: as OpenCV has it of a JPEG
        return 1


def _by_pillow(picture: Image.Image) -> np.ndarray:
    """The first frame, upright; shape (H, W, 3), uint8, BGR."""
    if _orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    picture = picture.convert('RGB')
    return np.ascontiguousarray(np.asarray(picture)[..., ::-1])


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Scale an image's values to 0..255 by their range.

    Args:
        pixels (np.ndarray): Shape (H, W) or (H, W, C), integer or float.

    Returns:
        np.ndarray: Shape (H, W, 3), uint8.
    """
    pixels = np.atleast_3d(pixels)[..., :3].astype(np.float64)
    finite = pixels[np.isfinite(pixels)]
    if not finite.size:
        raise BrokenImageError('no pixel has a finite value')
    # A dead or hot pixel of a sensor must not matter.
    low, high = np.percentile(finite, (0.1, 99.9))
    if low == high:
        low, high = finite.min(), finite.max()
    scaled = (pixels - low) * (255 / max(high - low, 1e-12))
    scaled = np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)
    return scaled if scaled.shape[2] == 3 else scaled[..., :1].repeat(3, 2)


def _unreadable(content: bytes) -> BrokenImageError:
    return BrokenImageError(f'{_describe(content)} ({len(content)} bytes)')


def _describe(content: bytes) -> str:
    """Describe a file by its first bytes."""
    if not content:
        return 'an empty file'
    for pattern, look in _LOOKS.items():
        if re.match(pattern, content[:1024], re.IGNORECASE | re.DOTALL):
            return look
    return 'no image that OpenCV or Pillow can read'
