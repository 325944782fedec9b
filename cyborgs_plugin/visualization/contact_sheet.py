"""Contact sheets: pictures next to their label maps."""
import os
import os.path as osp
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from skimage.segmentation import find_boundaries

from ..errors import UserError
from ..ops.label_maps import resize_label_map

GROUND_TRUTH = 'ground truth'


def contact_sheet(images: Sequence[np.ndarray],
                  columns: Mapping[str, Sequence[np.ndarray]],
                  out_file: str) -> str:
    """Write a sheet as PNG or JPEG; see :func:`draw_sheet`.

    Args:
        images (Sequence[np.ndarray]): RGB images.
        columns (Mapping[str, Sequence[np.ndarray]]): Titles and label maps.
        out_file (str): Its path; ``.jpg`` makes a JPEG, anything else a PNG.

    Returns:
        str: ``out_file``.
    """
    canvas = _draw(images, columns)
    os.makedirs(osp.dirname(out_file) or '.', exist_ok=True)
    if out_file.lower().endswith(('.jpg', '.jpeg')):
        canvas.print_jpg(out_file, pil_kwargs=dict(quality=90))
    else:
        canvas.print_png(out_file)
    return out_file


def draw_sheet(images: Sequence[np.ndarray],
               columns: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """Draw a row for each image and a column for each kind of masks.

    Args:
        images (Sequence[np.ndarray]): RGB, each (H, W, 3), uint8.
        columns (Mapping[str, Sequence[np.ndarray]]): Title and one label map
            per image, integer, (h, w) of any size; each covers the whole
            image. In a column named 'ground truth', id 0 is background and not
            painted.

    Returns:
        np.ndarray: RGB, (H', W', 3), uint8.

    Raises:
        ValueError: If a column does not have one label map per image.
    """
    canvas = _draw(images, columns)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw(images: Sequence[np.ndarray],
          columns: Mapping[str, Sequence[np.ndarray]]) -> FigureCanvasAgg:
    for title, maps in columns.items():
        if len(maps) != len(images):
            raise UserError(f'Column {title!r} has {len(maps)} label maps '
                            f'for {len(images)} images')
    figure = Figure(figsize=(2 * (1 + len(columns)), 1.6 * len(images)))
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(images), 1 + len(columns), squeeze=False)
    for row, image in zip(axes, images):
        row[0].imshow(image)
    axes[0, 0].set_title('image', fontsize=9)
    for number, (title, maps) in enumerate(columns.items(), 1):
        axes[0, number].set_title(title, fontsize=9)
        for row, image, label_map in zip(axes, images, maps):
            row[number].imshow(
                _paint(image, label_map, title == GROUND_TRUTH))
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout(pad=0.3)
    return canvas


def _paint(image: np.ndarray, label_map: np.ndarray,
           with_background: bool) -> np.ndarray:
    """Paint the ids over the image, with one colour per id."""
    # label2rgb and mark_boundaries take 7 times as long (by way of HSV)
    ids = resize_label_map(label_map, image.shape[:2]).astype(np.int64)
    palette = np.random.default_rng(0).integers(
        40, 256, (int(ids.max()) + 1, 3))
    painted = 0.35 * image + 0.65 * palette[ids]
    if with_background:
        painted[ids == 0] = image[ids == 0]
    painted[find_boundaries(ids, mode='inner')] = 255
    return painted.astype(np.uint8)
