"""From label maps to regions: pure functions of tensors.

A *region* is one id of an image's label map. The network sees it on the
coarse grid of its feature map, where every cell belongs to exactly one region
(CYBORGS, Sec. 3.1; the pooling itself is DetCon's, Sec. 3.2).
"""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

UNUSED = -1
"""The id of a slot that holds no region."""

_SORTABLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def cell_labels(label_maps: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Give each cell of a grid the label that fills most of it.

    If the grid does not divide the map, a cell covers the window of
    ``torch.nn.functional.adaptive_avg_pool2d``: rows ``floor(i * H / h)`` up
    to ``ceil((i + 1) * H / h)``, so neighbours may share a row. Time and
    memory depend on the number of pixels, not on the number of ids: the pixels
    of a cell are sorted and the longest run wins.

    Args:
        label_maps (Tensor): Non-negative ids, shape (B, H, W), any integer
            dtype.
        grid_size (tuple[int, int]): The grid's height and width (h, w).

    Returns:
        Tensor: The label of each cell, shape (B, h, w), int64. In a tie the
        lowest id wins.

    Raises:
        ValueError: If ``label_maps`` is not an integer tensor (B, H, W).
    """
    if label_maps.ndim != 3 or label_maps.is_floating_point():
        raise ValueError(
            'label_maps must be an integer tensor (B, H, W), but got '
            f'{tuple(label_maps.shape)} of {label_maps.dtype}')
    if label_maps.dtype not in _SORTABLE:  # uint16 and bool
        label_maps = label_maps.int()
    batch, height, width = label_maps.shape
    h, w = grid_size
    padding = None
    if height % h == 0 and width % w == 0:
        pixels = label_maps.reshape(batch, h, height // h, w, width // w)
        pixels = pixels.transpose(2, 3).flatten(3)  # (B, h, w, P)
    else:
        rows, row_padding = _windows(height, h, label_maps.device)
        cols, col_padding = _windows(width, w, label_maps.device)
        pixels = label_maps.long()[:, rows[:, :, None, None], cols]
        pixels = pixels.transpose(2, 3).flatten(3)  # (B, h, w, P)
        padding = row_padding[:, None, :, None] | col_padding[:, None]
        padding = padding.flatten(2)  # (h, w, P)
        pixels = pixels.masked_fill(padding, torch.iinfo(torch.int64).max)

    # A cell's label is the longest run of its sorted pixels.
    pixels = pixels.sort(dim=-1).values
    position = torch.arange(
        pixels.shape[-1], dtype=torch.int32, device=pixels.device)
    begins = torch.ones_like(pixels, dtype=torch.bool)
    begins[..., 1:] = pixels[..., 1:] != pixels[..., :-1]
    # For each pixel, the number of earlier pixels in its run: (B, h, w, P).
    run_start = (position * begins).cummax(dim=-1).values
    run_length = position - run_start
    if padding is not None:
        run_length.masked_fill_(padding.sort(dim=-1).values, -1)
    # argmax returns the first maximum: runs ascend, so ties go to the lowest.
    longest = run_length.argmax(dim=-1, keepdim=True)
    return pixels.gather(-1, longest).squeeze(-1).long()


def _windows(size: int, cells: int,
             device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel indices of each cell along one side, and which are padding.

    Returns:
        tuple[Tensor, Tensor]: int64 and bool, both (cells, longest window).
    """
    cell = torch.arange(cells, device=device)
    start = cell * size // cells
    end = -(-(cell + 1) * size // cells)
    index = start[:, None] + torch.arange(
        int((end - start).max()), device=device)
    return index.clamp(max=size - 1), index >= end[:, None]


def pool_regions(features: Tensor, cells: Tensor,
                 region_ids: Tensor) -> Tensor:
    """Average the feature vectors of the cells of each region.

    Args:
        features (Tensor): Feature maps, shape (B, C, H, W), floating point;
            see :func:`pool_stages`.
        cells (Tensor): The label of each cell, shape (B, h, w), integer.
        region_ids (Tensor): The regions to pool, shape (B, N), integer.

    Returns:
        Tensor: One vector per region, shape (B, N, C), dtype of ``features``.
        Zeros where the id is negative (an unused slot) or absent.
    """
    return pool_stages([features], cells, region_ids)


def pool_stages(stages: Sequence[Tensor], cells: Tensor,
                region_ids: Tensor) -> Tensor:
    """Average several maps over the cells of each region and concatenate.

    If a cell covers several locations of a map, the same product averages
    these as well, so that each map is read once.

    Args:
        stages (Sequence[Tensor]): Feature maps, each (B, C_i, H_i, W_i),
            floating point; H_i and W_i are multiples of h and w.
        cells (Tensor): The label of each cell, shape (B, h, w), integer.
        region_ids (Tensor): The regions to pool, shape (B, N), integer.

    Returns:
        Tensor: Shape (B, N, sum of C_i), as from :func:`pool_regions`.
    """
    member = cells[:, None] == region_ids[:, :, None, None]  # (B, N, h, w)
    member &= (region_ids >= 0)[:, :, None, None]
    area = member.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    pooled = []
    for maps in stages:
        height, width = (size // cell for size, cell in zip(
            maps.shape[2:], cells.shape[1:]))
        # Divided before it is summed: a sum overflows in half precision.
        weight = member.to(maps.dtype) / (area * (height * width))
        # (B, N, h, height, w, width): each location has its cell's weight
        weight = weight[:, :, :, None, :, None].expand(
            -1, -1, -1, height, -1, width).flatten(2)
        # (B, C, H * W) @ (B, H * W, N)
        pooled.append(maps.flatten(2) @ weight.transpose(1, 2))
    return torch.cat(pooled, 1).transpose(1, 2)


def sample_regions(cells: Tensor,
                   num_regions: int,
                   generator: torch.Generator | None = None) -> Tensor:
    """Draw regions uniformly, without replacement, from those present.

    Args:
        cells (Tensor): The label of each cell, shape (B, h, w), int64.
        num_regions (int): Number of slots N per image.
        generator (torch.Generator, optional): On the device of ``cells``.
            Defaults to None, the device's global one.

    Returns:
        Tensor: Region ids, shape (B, N), int64. An image with fewer than N
        regions leaves its last slots at -1 (unused).
    """
    ids = cells.flatten(1).sort(dim=-1).values  # (B, h * w)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    first &= ids >= 0
    # A random key for each distinct id: the N largest are a uniform draw.
    keys = torch.rand(ids.shape, generator=generator, device=ids.device)
    keys = keys.masked_fill(~first, -1)
    keys, order = keys.topk(min(num_regions, ids.shape[1]), dim=-1)
    drawn = ids.gather(1, order).masked_fill(keys < 0, UNUSED)
    missing = num_regions - drawn.shape[1]
    return torch.nn.functional.pad(drawn, (0, missing), value=UNUSED)


def used_rows(*region_ids: Tensor) -> tuple[Tensor, ...]:
    """Find the slots of several branches that hold a region.

    The host waits for the device once for all branches: call it before the
    device has much to do.

    Args:
        *region_ids (Tensor): Region ids of each branch, shape (B, N),
            integer; -1 is unused.

    Returns:
        tuple[Tensor, ...]: For each branch, the indices of its used slots
        among all B * N, ascending, shape (M, ), int64.
    """
    used = torch.stack([ids.flatten() >= 0 for ids in region_ids])
    order = used.byte().argsort(dim=1, descending=True, stable=True)
    return tuple(
        one[:count]
        for one, count in zip(order, used.sum(dim=1).tolist()))


def map_regions(function: Callable[[Tensor], Tensor],
                regions: Tensor,
                used: Tensor,
                rows: Tensor | None = None) -> Tensor:
    """Apply a function to the vectors of all used slots as one batch.

    Unused slots are left out because their zero vectors would shift the
    statistics of a batch norm.

    Args:
        function (Callable): Maps (M, C) to (M, D).
        regions (Tensor): Region vectors, shape (B, N, C).
        used (Tensor): Which slots hold a region, shape (B, N), bool.
        rows (Tensor, optional): Their indices from :func:`used_rows`, so that
            the host does not wait for them. Defaults to None.

    Returns:
        Tensor: Shape (B, N, D), zeros in unused slots.
    """
    batch, num_regions, _ = regions.shape
    if rows is None:
        rows, = used_rows(used.long() - 1)  # (M, ) of B * N
    if len(rows) < 2:
        # A batch norm in training needs two rows, and the graph must reach
        # every parameter: use all rows in this degenerate batch.
        mapped = function(regions.flatten(0, 1))
        mapped = mapped * used.flatten()[:, None]
    else:
        vectors = function(regions.flatten(0, 1)[rows])
        # (B * N, D)
        mapped = vectors.new_zeros(batch * num_regions, vectors.shape[1])
        mapped = mapped.index_copy(0, rows, vectors)
    return mapped.unflatten(0, (batch, num_regions))
