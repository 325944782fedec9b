"""One HTML page of photographs and their masks, round by round."""
import base64
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from sklearn.metrics import adjusted_rand_score

from ..ops.label_maps import resize_label_map
from ..ops.matched_ids import matched_ids, on_one_grid
from .html import fill, write_page

PHOTO_SIDE = 320
"""Long side of a photograph in the page, in pixels."""
GRID_SIDE = 160
"""Largest long side of a label map in the page, in cells."""
_JPEG_QUALITY = 80


@dataclass
class PageImage:
    """A picture of the page.

    Attributes:
        key (str): Its name in the mask bank.
        photo (np.ndarray or None): RGB, (H, W, 3), uint8; None where the file
            is broken.
        maps (Sequence[np.ndarray or None]): Its label map of each round,
            integer, (h, w); None where a round has none.
        broken (str): Why there is no photograph. Defaults to ''.
    """

    key: str
    photo: np.ndarray | None
    maps: Sequence[np.ndarray | None] = ()
    broken: str = ''


def write_mask_page(images: Iterable[PageImage], rounds: Sequence[str],
                    title: str, out_file: str) -> int:
    """Write the page: one file that loads nothing else.

    A region has the id, and so the colour, of the one that it covers most in
    the round before.

    Args:
        images (Iterable[PageImage]): The pictures; each is let go of before
            the next one is taken.
        rounds (Sequence[str]): What each round is called.
        title (str): Heading of the page.
        out_file (str): Path of the page.

    Returns:
        int: Size of the page, in bytes.

    Raises:
        ValueError: If a picture has not one map (or None) for each round.
    """
    content = dict(
        title=title,
        rounds=list(rounds),
        images=[_packed(image, len(rounds)) for image in images])
    return write_page(
        fill('mask_page', title=title, data=content), out_file)


def _packed(image: PageImage, num_rounds: int) -> dict:
    """What the page holds of a picture, as values for JSON."""
    if image.photo is None:
        return dict(key=image.key, broken=image.broken)
    if len(image.maps) != num_rounds:
        raise ValueError(f'{image.key!r} has {len(image.maps)} label maps '
                         f'for {num_rounds} rounds')
    photo = _reduced(image.photo)
    found = {number: ids for number, ids in enumerate(image.maps)
             if ids is not None}
    regions: list[int | None] = [None] * num_rounds
    agreement: list[float | None] = [None] * num_rounds
    grids = on_one_grid(*found.values())
    shown = [np.zeros_like(grids[0])] * num_rounds if grids else []
    previous = None
    for number, ids in zip(found, grids):
        regions[number] = len(np.unique(ids))
        if previous is not None:
            agreement[number] = round(
                float(adjusted_rand_score(previous.ravel(), ids.ravel())), 4)
            ids = matched_ids(ids, previous)
        previous = shown[number] = ids
    packed = dict(
        key=image.key,
        photo=_text(_jpeg(photo)),
        size=photo.shape[1::-1],
        regions=regions,
        agreement=agreement)
    if shown:
        cells = np.stack([_coarse(ids) for ids in shown])
        cells = cells.astype('u1' if cells.max() < 256 else '<u2')
        packed.update(
            grid=cells.shape[1:],
            wide=cells.itemsize == 2,
            maps=_text(zlib.compress(cells.tobytes(), 9)))
    return packed


def _reduced(photo: np.ndarray) -> np.ndarray:
    """A photograph no larger than the page shows it."""
    scale = PHOTO_SIDE / max(photo.shape[:2])
    if scale >= 1:
        return photo
    height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
    return cv2.resize(
        photo, (width, height), interpolation=cv2.INTER_AREA)


def _coarse(ids: np.ndarray) -> np.ndarray:
    """A label map of no more cells than the page shows."""
    scale = min(1, GRID_SIDE / max(ids.shape))
    return resize_label_map(
        ids, tuple(max(1, round(side * scale)) for side in ids.shape))


def _jpeg(photo: np.ndarray) -> bytes:
    return cv2.imencode('.jpg', photo[..., ::-1],
                        [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
