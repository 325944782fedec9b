"""The part of a map of features that a view shows, cell by cell."""
import numpy as np

_POINTS = 8
"""Points of a cell, along each side, at which the map is read."""


def crop_weights(start: float, length: float, cells: int, size: int,
                 flipped: bool = False) -> np.ndarray:
    """How much each row of a map counts for each row of cells of a crop.

    A cell is the mean of the map, interpolated linearly between the middles
    of its rows, over the part of the picture that the cell covers. Means of
    means: cropping and pooling may change places.

    Args:
        start (float): Upper end of the crop, as a part of the picture's side.
        length (float): Of the crop, likewise, above 0.
        cells (int): Rows of cells.
        size (int): Rows of the map, which cover the whole picture.
        flipped (bool): Whether the crop is turned round. Defaults to False.

    Returns:
        np.ndarray: Shape (cells, size), float32; each row has a sum of 1.
    """
    points = (np.arange(cells * _POINTS) + 0.5) / (cells * _POINTS)
    rows = np.clip((start + points * length) * size - 0.5, 0, size - 1)
    below = np.minimum(rows.astype(np.int64) + 1, size - 1)
    above = rows.astype(np.int64)
    weights = np.zeros((len(points), size), np.float32)
    index = np.arange(len(points))
    np.add.at(weights, (index, above), 1 - (rows - above))
    np.add.at(weights, (index, below), rows - above)
    weights = weights.reshape(cells, _POINTS, size).mean(axis=1)
    return weights[::-1] if flipped else weights
