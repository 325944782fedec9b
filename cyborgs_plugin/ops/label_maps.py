"""The look-up of ids in a label map of any size, nearest neighbour."""

import numpy as np


def crop_label_map(label_map: np.ndarray, image_size: tuple[int, int],
                   box: tuple[int, int, int, int],
                   output_size: tuple[int, int]) -> np.ndarray:
    """Sample a crop of an image from its label map, nearest neighbour.

    The result is the same as enlarging the map to the image (pixel ``y`` of
    the image has the id of row ``floor(y * h / H)``), cropping, and resizing
    the crop to what is under the centre of each output pixel
    (``floor((i + 0.5) * crop / output)``), as Pillow does with the image.

    Args:
        label_map (np.ndarray): Ids that cover the whole image, shape (h, w),
            integer.
        image_size (tuple[int, int]): The image's height and width (H, W).
        box (tuple[int, int, int, int]): Top, left, height and width of the
            crop, in pixels of the image.
        output_size (tuple[int, int]): Height and width of the output.

    Returns:
        np.ndarray: The crop's ids, shape ``output_size``, same dtype.
    """
    index = []
    for axis in range(2):
        start, length, output = box[axis], box[axis + 2], output_size[axis]
        pixel = start + (2 * np.arange(output) + 1) * length // (2 * output)
        index.append(pixel * label_map.shape[axis] // image_size[axis])
    # columns first, of the map's few rows: rows are copied whole
    return label_map.take(index[1], 1).take(index[0], 0)


def resize_label_map(label_map: np.ndarray,
                     size: tuple[int, ...]) -> np.ndarray:
    """Enlarge a label map to its image, nearest neighbour.

    Args:
        label_map (np.ndarray): Ids that cover the whole image, shape (h, w),
            integer.
        size (tuple[int, int]): The image's height and width (H, W).

    Returns:
        np.ndarray: Shape (H, W), same dtype: pixel ``y`` has the id of row
        ``floor(y * h / H)``.
    """
    height, width = size
    return crop_label_map(label_map, (height, width), (0, 0, height, width),
                          (height, width))
