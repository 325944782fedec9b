"""Views of photographs stored in one tensor: crops, colours, label maps."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .batch_colour import ColourPlan, apply_colours
from .batch_crop import (
    CROP_HEIGHT,
    CROP_WIDTH,
    NUM_COLUMNS,
    crop_image,
    crop_images,
    crop_label_maps,
    crop_label_maps_on_cpu,
)
from .colour import recolour
from .view_draws import Colours, ViewLaw


@dataclass
class Drawn:
    """One kind of view of N photographs, as drawn on the host."""

    law: ViewLaw
    crops: np.ndarray
    """Columns of ``batch_crop.py``, (N, 11), int64."""
    colours: Colours


def make_views(pixels: Tensor, labels: Tensor | None, drawn: Sequence[Drawn]
               ) -> tuple[list[Tensor], list[Tensor]]:
    """Make views, and the label maps of views.

    Args:
        pixels (Tensor): Photographs, see :func:`crop_images`.
        labels (Tensor, optional): Their label maps, see
            :func:`crop_label_maps`. None: no label maps.
        drawn (Sequence[Drawn]): V kinds of views.

    Returns:
        tuple[list[Tensor], list[Tensor]]: V times views (N, 3, height,
        width), uint8, BGR; and V times label maps (N, height, width), or none
        of them.
    """
    make = _one_by_one if pixels.device.type == 'cpu' else batched
    return make(pixels, labels, drawn)


def _one_by_one(pixels: Tensor, labels: Tensor | None, drawn: Sequence[Drawn]
                ) -> tuple[list[Tensor], list[Tensor]]:
    """For a CPU, whose caches hold one view but not a batch."""
    views, maps = [], []
    for kind in drawn:
        size = kind.law.size
        view = torch.empty((len(kind.crops), 3, *size), dtype=torch.uint8)
        for row, crop in enumerate(kind.crops.tolist()):
            image = crop_image(pixels, crop, size).numpy()
            image = recolour(image, kind.law, kind.colours, row)
            view[row] = torch.from_numpy(image).permute(2, 0, 1)
        views.append(view)
        if labels is not None:
            maps.append(
                crop_label_maps_on_cpu(labels, torch.from_numpy(kind.crops),
                                       size))
    return views, maps


def batched(pixels: Tensor, labels: Tensor | None, drawn: Sequence[Drawn]
            ) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`make_views` for all views at once, on any device.

    All draws go to the device in one copy, and nothing comes back.
    """
    plans = [ColourPlan.of(kind.law, kind.colours) for kind in drawn]
    tables = to_device([
        np.concatenate([kind.crops[plan.rows], plan.table], 1)
        for kind, plan in zip(drawn, plans)
    ], pixels.device)
    views, maps = [], []
    for kind, plan, table in zip(drawn, plans, tables):
        crops, colours = table[:, :NUM_COLUMNS].long(), table[:, NUM_COLUMNS:]
        longest = (int(kind.crops[:, CROP_HEIGHT].max()),
                   int(kind.crops[:, CROP_WIDTH].max()))
        view = crop_images(pixels, crops, kind.law.size, longest)
        views.append(apply_colours(view, plan, colours))
        if labels is not None:
            crops = plan.drawn_order(crops, colours)
            maps.append(crop_label_maps(labels, crops, kind.law.size))
    return views, maps


def to_device(tables: Sequence[np.ndarray],
              device: torch.device) -> list[Tensor]:
    """Copy tables (N, C) of numbers to a device at once, without waiting."""
    table = torch.from_numpy(np.concatenate(tables, 1, dtype=np.float64))
    if device.type == 'cuda':
        table = table.pin_memory()
    return list(
        table.to(device, non_blocking=True).split(
            [part.shape[1] for part in tables], 1))


def recolour_batch(views: Tensor, law: ViewLaw, colours: Colours) -> Tensor:
    """Change the colours of views as drawn.

    Args:
        views (Tensor): BGR, (N, 3, H, W), uint8, on any device.
        law (ViewLaw): The distribution that the colours were drawn from.
        colours (Colours): Draws for the N views.

    Returns:
        Tensor: Same shape, dtype and device as ``views``.
    """
    if views.device.type == 'cpu':
        changed = torch.empty_like(views)
        for row, view in enumerate(views):
            image = np.ascontiguousarray(view.permute(1, 2, 0).numpy())
            image = recolour(image, law, colours, row)
            changed[row] = torch.from_numpy(image).permute(2, 0, 1)
        return changed
    plan = ColourPlan.of(law, colours)
    table, rows = to_device([plan.table, plan.rows[:, None]], views.device)
    views = views.index_select(0, rows[:, 0].long())
    return apply_colours(views, plan, table)
