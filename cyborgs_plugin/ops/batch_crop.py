"""Crops of photographs and label maps, a batch at a time, on any device.

All photographs are stored one after the other in one tensor, and so are their
label maps. Nothing here makes the host wait for the device.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_FLOATS = 1 << 28
"""Bytes of the parts of photographs that are resampled at a time: 1 GiB."""

START, HEIGHT, WIDTH, TOP, LEFT, CROP_HEIGHT, CROP_WIDTH, FLIP = range(8)
"""Columns of a table of crops: where the photograph begins in the tensor, its
height and width, the box in its pixels, and 1 where the view is mirrored."""
MAP_START, MAP_HEIGHT, MAP_WIDTH = range(8, 11)
"""The same of its label map."""
NUM_COLUMNS = 11


def crop_image(pixels: Tensor, crop: Sequence[int],
               size: tuple[int, int]) -> Tensor:
    """Crop one photograph like :func:`crop_images`, on a CPU.

    Args:
        pixels (Tensor): See :func:`crop_images`.
        crop (Sequence[int]): A row of its table.
        size (tuple[int, int]): Height and width of the view.

    Returns:
        Tensor: (height, width, 3), uint8.
    """
    start, height, width, top, left, rows, columns, flip = crop[:8]
    photo = pixels[start:start + 3 * height * width].view(height, width, 3)
    view = resize(photo[top:top + rows, left:left + columns], size)
    return view.flip(1) if flip else view


def resize(image: Tensor, size: tuple[int, int],
           mode: str = 'bicubic') -> Tensor:
    """Resize one image on a CPU like Pillow, to within a grey level.

    Args:
        image (Tensor): (H, W, 3), uint8.
        size (tuple[int, int]): Height and width of the result.
        mode (str): 'bicubic' or 'bilinear'. Defaults to 'bicubic'.

    Returns:
        Tensor: (height, width, 3), uint8.
    """
    # There is a kernel for bytes if channels are contiguous; torch detects
    # this by the strides, including that of the batch.
    planes = image[None].permute(0, 3, 1, 2).contiguous(
        memory_format=torch.channels_last)
    return F.interpolate(
        planes, size, mode=mode, antialias=True)[0].permute(1, 2, 0)


def crop_images(pixels: Tensor, crops: Tensor, size: tuple[int, int],
                longest: tuple[int, int]) -> Tensor:
    """Crop photographs and resize the crops, bicubic and antialiased.

    All crops are computed at once, as products with the matrices that resample
    rows and columns, which is fast on a GPU. On a CPU, torch's own kernel for
    bytes takes a twentieth of the time: :func:`crop_image`. Both agree with
    Pillow's filter to within a grey level.

    Args:
        pixels (Tensor): Photographs (H, W, 3) as bytes, one after the other,
            uint8, 1-D. After the last one there are ``3 * longest[1]`` more
            bytes.
        crops (Tensor): Columns as above, (N, 8 or more), int64, on the same
            device.
        size (tuple[int, int]): Height and width of a view.
        longest (tuple[int, int]): Largest height and width of the boxes, known
            to the host.

    Returns:
        Tensor: (N, 3, height, width), uint8.
    """
    floats = 3 * longest[0] * longest[1]
    return torch.cat([
        _by_matrices(pixels, part, size, longest)
        for part in crops.split(max(1, _MAX_FLOATS // floats))
    ])


def _by_matrices(pixels: Tensor, crops: Tensor, size: tuple[int, int],
                 longest: tuple[int, int]) -> Tensor:
    rows, columns = longest
    row = torch.arange(rows, device=pixels.device)
    row = torch.minimum(row, crops[:, CROP_HEIGHT, None] - 1)
    first = crops[:, START, None] + 3 * (
        (crops[:, TOP, None] + row) * crops[:, WIDTH, None]
        + crops[:, LEFT, None])
    # Pixels to the right of a box get the weight 0.
    parts = pixels.unfold(0, 3 * columns, 1)[first]
    parts = parts.view(len(crops), rows, columns, 3).permute(0, 3, 1, 2)
    across = resampling(crops[:, CROP_WIDTH], size[1], columns,
                        crops[:, FLIP])
    down = resampling(crops[:, CROP_HEIGHT], size[0], rows)
    # Pillow also begins with the rows and converts them to bytes.
    parts = _bytes(torch.bmm(
        parts.to(torch.float32, memory_format=torch.contiguous_format).view(
            len(crops), 3 * rows, columns),
        across.transpose(1, 2)))
    parts = parts.view(len(crops), 3, rows, size[1])
    return _bytes(torch.matmul(down[:, None], parts)).to(torch.uint8)


def _bytes(pixels: Tensor) -> Tensor:
    """Round to 0..255, in place."""
    return pixels.add_(0.5).clamp_(0, 255).floor_()


def resampling(lengths: Tensor, size: int, longest: int,
               mirrored: Tensor | None = None) -> Tensor:
    """Make the matrices that resize lines like Pillow's bicubic filter.

    Args:
        lengths (Tensor): Pixels of each line, (N, ), int64.
        size (int): Number of pixels of the result.
        longest (int): Columns of the matrices; the largest of ``lengths``.
        mirrored (Tensor, optional): 1 where the result is mirrored, (N, ),
            int64. Defaults to None, nowhere.

    Returns:
        Tensor: (N, size, longest), float32; rows sum to 1, and columns from
        the line's length on are 0.
    """
    length = lengths.float()[:, None, None]
    index = torch.arange(max(size, longest), device=lengths.device) + 0.5
    scale = length / size
    centre = index[:size, None] * scale
    if mirrored is not None:
        centre = centre + mirrored[:, None, None] * (length - 2 * centre)
    distance = (index[:longest] - centre).abs_().div_(scale.clamp(min=1.))
    near = distance.clamp(max=1.)
    far = distance.clamp(min=1., max=2.)
    # Keys' filter with a = -0.5: 1 at 0, 0 at 1 and 2.
    weight = (1.5 * near - 2.5) * near * near + 1.
    weight += ((-0.5 * far + 2.5) * far - 4.) * far + 2.
    weight *= index[:longest] < length
    return weight.div_(weight.sum(2, keepdim=True))


def crop_label_maps(labels: Tensor, crops: Tensor,
                    size: tuple[int, int]) -> Tensor:
    """Crop label maps like :func:`crop_label_map`, and mirror them.

    Args:
        labels (Tensor): Label maps (h, w), one after the other, integer, 1-D.
        crops (Tensor): Columns as above, (N, 11 or more), int64, on the same
            device.
        size (tuple[int, int]): Height and width of a view.

    Returns:
        Tensor: (N, height, width), dtype of ``labels``.
    """
    rows, columns = _cells(crops, size)
    return labels[crops[:, MAP_START, None, None]
                  + rows[:, :, None] * crops[:, MAP_WIDTH, None, None]
                  + columns[:, None]]


def _cells(crops: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Rows and columns of label maps under those of views, each (N, size)."""
    cells = []
    for axis in range(2):
        index = torch.arange(size[axis], device=crops.device)
        if axis == 1:
            flip = crops[:, FLIP, None]
            index = index + flip * (size[1] - 1 - 2 * index)
        start, length, whole, cell = (
            crops[:, column + axis, None]
            for column in (TOP, CROP_HEIGHT, HEIGHT, MAP_HEIGHT))
        pixel = start + (2 * index + 1) * length // (2 * size[axis])
        cells.append(pixel * cell // whole)
    return cells


def crop_label_maps_on_cpu(labels: Tensor, crops: Tensor,
                           size: tuple[int, int]) -> Tensor:
    """:func:`crop_label_maps` one after the other, faster on a CPU."""
    maps = labels.new_empty((len(crops), *size))
    rows, columns = _cells(crops, size)
    for view, row, column, crop in zip(maps, rows, columns, crops.tolist()):
        start, height, width = crop[MAP_START:NUM_COLUMNS]
        label_map = labels[start:start + height * width].view(height, width)
        torch.index_select(
            label_map.index_select(1, column), 0, row, out=view)
    return maps
