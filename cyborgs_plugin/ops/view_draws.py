"""The random part of views: distributions, and reproducible draws.

All random numbers of a view are drawn on the host, only from the run's seed,
the epoch and the photograph's key. Batches, ranks and earlier draws do not
change them.
"""
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_COLOURS = 13
"""Random numbers that :func:`draw_colours` needs for a view."""
_Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ViewLaw:
    """The distribution of a kind of view; by default only a crop.

    Ranges and definitions are those of the transforms of mmpretrain and mmcv.
    """

    size: tuple[int, int]
    """Height and width in pixels."""
    area: _Range = (0.08, 1.)
    """Of the crop, as a share of the photograph's."""
    aspect: _Range = (3 / 4, 4 / 3)
    """Width to height of the crop."""
    attempts: int = 10
    """How many boxes are drawn until one lies within the photograph."""
    flip: float = 0.
    """Probability."""
    jitter: float = 0.
    """Probability of the next four, in random order."""
    brightness: _Range = (1., 1.)
    contrast: _Range = (1., 1.)
    saturation: _Range = (1., 1.)
    hue: _Range = (0., 0.)
    """In turns."""
    grey: float = 0.
    """Probability."""
    grey_weights: tuple[float, float, float] = (0.114, 0.587, 0.2989)
    """Of blue, green, red."""
    blur: float = 0.
    """Probability."""
    sigma: _Range = (0.1, 2.)
    """Of the blur, in pixels."""
    solarise: float = 0.
    """Probability."""
    threshold: float = 128.
    """Of the solarisation."""

    @property
    def num_draws(self) -> int:
        """Number of random numbers that a view needs."""
        return 4 * self.attempts + NUM_COLOURS + 1


@dataclass
class Colours:
    """Colour changes of N views."""

    jitter: np.ndarray
    """Whether, (N, ) bool."""
    order: np.ndarray
    """A permutation of brightness, contrast, saturation, hue, (N, 4) int."""
    factors: np.ndarray
    """Of the same four, (N, 4)."""
    grey: np.ndarray
    """Whether, (N, ) bool."""
    sigma: np.ndarray
    """Of the blur in pixels, (N, ); 0 where there is none."""
    solarise: np.ndarray
    """Whether, (N, ) bool."""

    def __getitem__(self, rows: np.ndarray | slice) -> 'Colours':
        """Some of the views."""
        return Colours(
            **{name: value[rows] for name, value in vars(self).items()})


def draws(seed: int, epoch: int, keys: Sequence[str],
          number: int) -> np.ndarray:
    """Draw numbers that depend only on seed, epoch and key.

    Args:
        seed (int): Seed of the run.
        epoch (int): The current epoch.
        keys (Sequence[str]): N names.
        number (int): Number D of draws per name.

    Returns:
        np.ndarray: Uniform in [0, 1), (N, D), float64; each is a multiple of
        2^-32.
    """
    content = b''.join(
        hashlib.shake_128(
            f'{seed}/{epoch}/'.encode()
            + key.encode('utf-8', 'surrogateescape')).digest(4 * number)
        for key in keys)
    return np.frombuffer(content, '<u4').reshape(-1, number) / 2.**32


def draw_boxes(law: ViewLaw, uniform: np.ndarray,
               sizes: np.ndarray) -> np.ndarray:
    """Draw crops like mmpretrain's ``RandomResizedCrop``.

    Args:
        law (ViewLaw): Area, aspect and attempts are used.
        uniform (np.ndarray): (N, 4 * attempts), in [0, 1).
        sizes (np.ndarray): Height and width of each photograph, (N, 2), int.

    Returns:
        np.ndarray: Top, left, height, width, (N, 4), int64.
    """
    sizes = sizes.astype(np.int64)
    draw = uniform.reshape(len(sizes), law.attempts, 4)
    low, high = law.area
    area = (low + draw[..., 0] * (high - low)) * sizes.prod(1)[:, None]
    low, high = np.log(law.aspect)
    aspect = np.exp(low + draw[..., 1] * (high - low))
    sides = np.rint(np.stack(
        [np.sqrt(area / aspect), np.sqrt(area * aspect)], -1)).astype(int)
    room = sizes[:, None] - sides + 1
    fits = ((sides > 0) & (room > 0)).all(-1)
    corners = (draw[..., 2:] * room).astype(int)
    boxes = np.concatenate([corners, sides], -1)
    found = fits.any(1)
    chosen = (boxes[np.arange(len(boxes)), fits.argmax(1)]
              if law.attempts else np.zeros((len(sizes), 4), int))
    return np.where(found[:, None], chosen, _central(law, sizes))


def _central(law: ViewLaw, sizes: np.ndarray) -> np.ndarray:
    """The crop if none of the drawn ones fits."""
    height, width = sizes.T
    ratio = width / height
    side = np.stack([
        np.where(ratio < law.aspect[0], np.rint(width / law.aspect[0]),
                 height),
        np.where(ratio > law.aspect[1], np.rint(height * law.aspect[1]),
                 width)
    ], 1).astype(int)
    return np.concatenate([(sizes - side) // 2, side], 1)


def draw_flips(law: ViewLaw, uniform: np.ndarray) -> np.ndarray:
    """Whether each view is mirrored, (N, ) bool, from draws (N, )."""
    return uniform < law.flip


def draw_colours(law: ViewLaw, uniform: np.ndarray) -> Colours:
    """Draw the changes of colours.

    Args:
        law (ViewLaw): The distribution.
        uniform (np.ndarray): (N, 13), in [0, 1).
    """
    ranges = np.array(
        [law.brightness, law.contrast, law.saturation, law.hue])
    factors = ranges[:, 0] + uniform[:, 5:9] * np.diff(ranges)[:, 0]
    low, high = law.sigma
    return Colours(
        jitter=uniform[:, 0] < law.jitter,
        order=uniform[:, 1:5].argsort(1),
        factors=factors,
        grey=uniform[:, 9] < law.grey,
        sigma=np.where(uniform[:, 10] < law.blur,
                       low + uniform[:, 11] * (high - low), 0.),
        solarise=uniform[:, 12] < law.solarise)


def draw_views(law: ViewLaw, uniform: np.ndarray, sizes: np.ndarray
               ) -> tuple[np.ndarray, np.ndarray, Colours]:
    """Draw views.

    Args:
        law (ViewLaw): The distribution.
        uniform (np.ndarray): (N, ``law.num_draws``), in [0, 1).
        sizes (np.ndarray): Height and width of each photograph, (N, 2), int.

    Returns:
        tuple[np.ndarray, np.ndarray, Colours]: Boxes (N, 4), whether each is
        mirrored (N, ), and the colours.
    """
    crop, flip, colours = np.split(
        uniform, [4 * law.attempts, 4 * law.attempts + 1], axis=1)
    return (draw_boxes(law, crop, sizes), draw_flips(law, flip[:, 0]),
            draw_colours(law, colours))
