"""The parts of an image that are clustered: its cells or superpixels."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.superpixels import Superpixels, cell_colours, pool


class Preprocessed(NamedTuple):
    """What the decoding threads compute from an image."""

    image: np.ndarray
    """BGR, (H, W, 3), uint8, of the size at which features are computed."""
    superpixels: Superpixels


class Parts(NamedTuple):
    """The S parts of an image on h x w cells."""

    vectors: Tensor
    """Features, (S, C), float32."""
    ids: np.ndarray
    """Part of each cell, (h, w), int64."""
    places: Tensor
    """Row and column, -1 to 1 across the image, (S, 2)."""
    colours: Tensor | None = None
    """CIELAB / 50, (S, 3)."""
    counts: Tensor | None = None
    """Cells of each, (S, ). None: all are cells."""

    @classmethod
    def of_cells(cls, maps: Tensor,
                 image: np.ndarray | None = None) -> 'Parts':
        """Use each cell as a part.

        Args:
            maps (Tensor): Features, (h, w, C).
            image (np.ndarray, optional): The image with the colours, BGR,
                (H, W, 3), uint8. Defaults to None, no colours.
        """
        height, width = maps.shape[:2]
        colours = None
        if image is not None:
            found = cell_colours(image, (height, width))
            colours = torch.from_numpy(found).flatten(0, 1).to(maps)
        return cls(
            maps.flatten(0, 1),
            np.arange(height * width).reshape(height, width),
            places_of((height, width)).to(maps), colours)

    @classmethod
    def of_superpixels(cls, maps: Tensor | None, superpixels: Superpixels,
                       weights: Sequence[float] = (1., )) -> 'Parts':
        """Use each superpixel as a part, represented by the mean of its cells.

        Args:
            maps (Tensor, optional): Features, (h', w', C), made of vectors of
                ``C / len(weights)`` channels. None: use only colour and place.
            superpixels (Superpixels): The superpixels of the image.
            weights (Sequence[float]): Length to which each vector of a cell is
                normalised. Defaults to (1, ).
        """
        ids, counts, places, colours = superpixels
        if maps is None:
            vectors = torch.zeros(len(counts), 0)
        else:
            means = pool(maps, torch.from_numpy(ids).to(maps.device),
                         len(counts))
            vectors = (F.normalize(
                means.unflatten(1, (len(weights), -1)), dim=2)
                * means.new_tensor(weights)[:, None]).flatten(1)
        return cls(vectors, ids, *(
            torch.from_numpy(values).to(vectors)
            for values in (places, colours, counts)))


def places_of(size: tuple[int, ...]) -> Tensor:
    """Row and column of each cell of an image, -1 to 1, (h * w, 2)."""
    return torch.cartesian_prod(
        *((2 * torch.arange(side) + 1) / side - 1 for side in size))
