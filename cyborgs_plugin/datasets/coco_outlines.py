"""Outlines of COCO's objects, checked before pycocotools reads them.

Its C code accepts any number as a coordinate or a run length: a huge number
exhausts the memory, and run lengths that end early leave memory undefined.
"""
import math
from collections import Counter
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_LONGEST = 10**7  # pixels along all parts; pycocotools takes 80 bytes for each
_DIGITS = 7  # of 5 bits, more than any number of pixels needs


def repair_outline(annotation: dict, size: tuple[int, int],
                 repaired: Counter) -> None:
    """Repair what is unambiguous in an outline; check nothing else.

    Args:
        annotation (dict): Its ``segmentation`` is replaced.
        size (tuple[int, int]): Height and width of its image in pixels.
        repaired (Counter): Counts the repairs.
    """
    outline = annotation.get('segmentation')
    if isinstance(outline, dict):
        sides = outline.get('size')
        if isinstance(sides, list) and sides != list(size) and [
                str(side).removesuffix('.0') for side in sides
        ] == [str(side) for side in size]:
            outline['size'] = list(size)
            repaired['sizes of run lengths as text or with a decimal point'
                     ] += 1
        return
    if not isinstance(outline, list) or not outline:
        return
    if all(isinstance(side, (int, float)) for side in outline):
        outline = [outline]
        repaired['outlines that are one bare list'] += 1
    if _are_points(outline):
        outline = [outline]
    if any(map(_are_points, outline)):
        outline = [[side for point in part for side in point]
                   if _are_points(part) else part for part in outline]
        repaired['outlines of points [x, y]'] += 1
    kept = [part for part in outline if not _flaw(part, size)]
    if kept and len(kept) < len(outline):
        repaired['parts of outlines that are left out, of no area, half a '
               'point or outside the image'] += len(outline) - len(kept)
        outline = kept
    annotation['segmentation'] = outline


def encode_outline(outline: Any, size: tuple[int, int]) -> dict:
    """Convert an outline to the compressed form of pycocotools.

    Args:
        outline (Any): ``segmentation`` of an annotation.
        size (tuple[int, int]): Height and width of its image in pixels.

    Returns:
        dict: Run lengths that fill the image, ``counts`` and ``size``.

    Raises:
        ValueError: If it is not an outline, or not of that image; the message
            says why.
    """
    if isinstance(outline, dict):
        sides = outline.get('size')
        if sides != list(size):
            raise ValueError(f'run lengths of size {sides!r:.40}')
        return coco_mask.frPyObjects(
            dict(counts=_counts(outline.get('counts'), math.prod(size)),
                 size=list(size)), *size)
    if not isinstance(outline, list) or not outline:
        raise ValueError(f'found {outline!r:.40}')
    parts = [_points(part, size) for part in outline]
    length = sum(
        float(np.abs(np.roll(points, 1, 0) - points).max(1).sum())
        for points in parts)
    if length > _LONGEST:
        raise ValueError(f'an outline of {length:.0f} pixels, more than '
                         f'{_LONGEST}')
    return coco_mask.merge(
        coco_mask.frPyObjects([points.ravel().tolist() for points in parts],
                              *size))


def _are_points(part: Any) -> bool:
    """Whether it is a polygon of points [x, y]."""
    return isinstance(part, list) and len(part) > 2 and all(
        isinstance(point, list) and len(point) == 2 and all(
            isinstance(side, (int, float)) for side in point)
        for point in part)


def _flaw(part: Any, size: tuple[int, int]) -> str:
    """Why a part of an outline holds no pixel; '' if there is no reason."""
    if not isinstance(part, list):
        return ''
    if len(part) % 2 or len(part) < 6:
        return (f'a polygon of {len(part)} numbers: expected x and y of three '
                'points or more')
    try:
        outside = any(
            max(part[axis::2]) <= 0 or min(part[axis::2]) >= side
            for axis, side in enumerate(size[::-1]))
    except TypeError:
        return ''
    # A part far outside means that the whole outline is wrong.
    if outside and all(abs(side) <= 2 * max(size) for side in part):
        return 'a polygon outside the image'
    return ''


def _points(part: Any, size: tuple[int, int]) -> np.ndarray:
    """Points (M, 2), x and y, float64, of a polygon that can be drawn."""
    if not isinstance(part, list) or not all(
            type(side) in (int, float) for side in part):
        raise ValueError(f'{part!r:.40} is no list of coordinates')
    if flaw := _flaw(part, size):
        raise ValueError(flaw)
    far = max(size)
    for axis, side in enumerate(size[::-1]):
        for value in part[axis::2]:
            if not -far <= value <= side + far:  # nor is NaN
                raise ValueError(
                    f'the coordinate {"xy"[axis]} {value!r:.40}, further '
                    'outside the image than its long side or no number')
    return np.array(part, dtype=np.float64).reshape(-1, 2)


def _counts(counts: Any, pixels: int) -> list[int]:
    """Run lengths that were checked."""
    if isinstance(counts, (str, bytes)):
        counts = _decode(counts.encode() if isinstance(counts, str)
                         else counts)
    if not isinstance(counts, list) or not all(
            type(count) is int and 0 <= count <= pixels for count in counts):
        raise ValueError(f'run lengths {counts!r:.40}: expected whole numbers '
                         f'from 0 to {pixels}')
    if sum(counts) != pixels:
        raise ValueError(f'run lengths of {sum(counts)} pixels together: '
                         f'expected {pixels}')
    return counts


def _decode(text: bytes) -> list[int]:
    """Run lengths of COCO's text: 5 bits per letter, the lowest first.

    Bit 6 means that the number continues, the highest of its 5 bits that it is
    negative. From the fourth number on, each is the difference to the last but
    one.
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        letter -= 48
        if not 0 <= letter < 64 or shift >= 5 * _DIGITS:
            raise ValueError(f'run lengths {text!r:.40}, which are none of '
                             "COCO's")
        value |= (letter & 31) << shift
        shift += 5
        if not letter & 32:
            value -= (letter & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError(f'run lengths {text!r:.40}, which end in a number')
    return counts
