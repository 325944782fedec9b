"""Colours of views, a batch at a time, on any device.

Each operation gives the same picture as Pillow, which mmpretrain's transforms
call, to within a grey level or two; the parameters differ from view to view.
Nothing here makes the host wait for the device: the host knows what it needs
of the draws before they are copied there.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import blur_kernels
from .view_draws import Colours, ViewLaw

_HUE = 3  # of Colours.order
_LUMA = (7471 / 65536, 38470 / 65536, 19595 / 65536)
"""Weights of blue, green and red, as in Pillow."""
_BEFORE, _AFTER, _SHIFT, _GREY, _BLUR, _SOLARISE, _BACK, _KERNEL = (
    0, 9, 18, 19, 20, 21, 22, 23)
"""First columns of the table."""


@dataclass
class _Step:
    """A change of the contrast of some views."""

    views: slice
    column: int
    """Of the table."""
    own: bool
    """Whether to the grey of each pixel in any of them."""
    mean: bool
    """... and to the mean grey of a view."""

    @classmethod
    def of(cls, start: int, stop: int, column: int,
           table: np.ndarray) -> '_Step':
        """The step of the views from one to another."""
        views = slice(start, stop)
        return cls(views, column, bool(table[views, column + 1].any()),
                   bool(table[views, column + 2].any()))


@dataclass
class ColourPlan:
    """The draws of N views, ordered so that parts of a batch are slices."""

    law: ViewLaw
    rows: np.ndarray
    """The order in which the views come to :func:`apply_colours`, (N, )."""
    table: np.ndarray
    """Numbers of the views in that order, (N, C), float64."""
    jittered: int
    """Number of views at the beginning that are jittered."""
    before: list[_Step]
    """First, second, third step before hue."""
    after: list[_Step]
    """... and after it."""
    grey: int
    """Number of grey views; the same for blurred and solarised ones."""
    blurred: int
    solarised: int

    @classmethod
    def of(cls, law: ViewLaw, colours: Colours) -> 'ColourPlan':
        """Order the draws of some views.

        Args:
            law (ViewLaw): The distribution that they were drawn from.
            colours (Colours): The draws.
        """
        number = len(colours.jitter)
        place = (colours.order == _HUE).argmax(1)
        rank = np.where(colours.jitter, place, -1)  # steps before hue
        rows = np.argsort(-rank, kind='stable')
        colours, rank = colours[rows], rank[rows]
        jittered = int(colours.jitter.sum())
        kernels = blur_kernels(colours.sigma[colours.sigma > 0])
        table = np.zeros((number, _KERNEL + kernels.shape[1]))
        table[:, _BEFORE:_SHIFT] = _steps(colours, rank)
        # Like mmcv, which shifts bytes.
        table[:, _SHIFT] = np.trunc(colours.factors[:, _HUE] * 255) % 256
        counts = []
        for column, chosen in ((_GREY, colours.grey),
                               (_BLUR, colours.sigma > 0),
                               (_SOLARISE, colours.solarise)):
            chosen = np.flatnonzero(chosen)
            table[:len(chosen), column] = chosen
            counts.append(len(chosen))
        table[rows, _BACK] = np.arange(number)
        table[:len(kernels), _KERNEL:] = kernels
        rank = rank[:jittered]
        before = [
            _Step.of(0, int((rank > step).sum()), _BEFORE + 3 * step, table)
            for step in range(rank[:1].sum())
        ]
        after = [
            _Step.of(int((rank >= 3 - step).sum()), jittered,
                     _AFTER + 3 * step, table)
            for step in range((3 - rank[-1:]).sum())
        ]
        return cls(law, rows, table, jittered, before, after, *counts)

    @staticmethod
    def drawn_order(rows: Tensor, table: Tensor) -> Tensor:
        """Restore the order in which rows (N, ...) were drawn."""
        return rows.index_select(0, table[:, _BACK].long())


def _steps(colours: Colours, rank: np.ndarray) -> np.ndarray:
    """Steps before and after hue, (N, 18): three numbers for each.

    They are the factor, and whether pixels are moved away from their own grey
    or from the mean grey of the view (else from black).
    """
    rows = np.arange(len(rank))
    steps = np.zeros((len(rank), 6, 3))
    steps[..., 0] = 1.
    for place in range(4):
        kind = colours.order[:, place]
        slot = np.where(place < rank, place, 2 + place - rank)
        chosen = (kind != _HUE) & colours.jitter
        numbers = np.stack([
            colours.factors[rows, kind], kind == 2, kind == 1
        ], 1)
        steps[rows[chosen], slot[chosen]] = numbers[chosen]
    return steps.reshape(len(rank), 18)


def apply_colours(views: Tensor, plan: ColourPlan, table: Tensor) -> Tensor:
    """Change the colours of views as drawn.

    Args:
        views (Tensor): BGR, (N, 3, H, W), uint8, in the order ``plan.rows``.
        plan (ColourPlan): The draws.
        table (Tensor): ``plan.table`` on the device of the views.

    Returns:
        Tensor: (N, 3, H, W), uint8, in the order in which they were drawn.
    """
    pixels, table = views.float(), table.float()
    for step in plan.before:
        _blend(pixels, table, step)
    if plan.jittered and plan.law.hue != (0., 0.):
        _shift_hue(pixels[:plan.jittered], table[:plan.jittered, _SHIFT])
    for step in plan.after:
        _blend(pixels, table, step)

    pixels = _change(pixels, table, plan.grey, _GREY,
            lambda chosen: _grey(chosen, plan.law.grey_weights))
    pixels = _change(pixels, table, plan.blurred, _BLUR,
            lambda chosen: _blur(chosen, table[:plan.blurred, _KERNEL:]))
    pixels = _change(pixels, table, plan.solarised, _SOLARISE,
            lambda chosen: _solarise(chosen, plan.law.threshold))
    return plan.drawn_order(pixels.to(torch.uint8), table)


def _change(pixels: Tensor, table: Tensor, number: int, column: int,
            function: Callable[[Tensor], Tensor]) -> Tensor:
    """Change, maybe in place, the views selected by a column of the table."""
    if number == len(pixels):
        return function(pixels)
    if number:
        rows = table[:number, column].long()
        pixels.index_copy_(0, rows, function(pixels[rows]))
    return pixels


def _weighted(pixels: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum of the channels, (N, H, W)."""
    blue, green, red = weights
    total = pixels[:, 0] * blue
    return total.add_(pixels[:, 1], alpha=green).add_(
        pixels[:, 2], alpha=red)


def _blend(pixels: Tensor, table: Tensor, step: _Step) -> None:
    """Brightness, contrast or saturation, in place."""
    pixels = pixels[step.views]
    factor, own, mean = table[step.views, step.column:step.column + 3, None,
                              None, None].unbind(1)
    if not step.own and not step.mean:
        pixels.mul_(factor)
    else:
        grey = _weighted(pixels, _LUMA).add_(0.5).floor_()[:, None]
        if step.mean:
            centre = grey.mean((2, 3), keepdim=True).add_(0.5).floor_()
            centre.mul_(mean)
            if step.own:
                centre = grey.mul_(own).add_(centre)
        else:
            centre = grey.mul_(own)
        torch.addcmul(centre, pixels.sub_(centre), factor, out=pixels)
    # Pillow truncates fractions.
    pixels.clamp_(0, 255).floor_()


def _shift_hue(pixels: Tensor, shift: Tensor) -> None:
    """Rotate hues in place, as in Pillow's HSV of bytes.

    Args:
        pixels (Tensor): BGR, (N, 3, H, W), whole numbers.
        shift (Tensor): In 256ths of a turn, (N, ), whole numbers.
    """
    # In place wherever possible: on a CPU new memory costs more than the sums,
    # and comparisons more than clamped differences of whole numbers.
    blue, green, red = pixels.unbind(1)
    value = torch.maximum(blue, green)
    torch.maximum(value, red, out=value)
    chroma = torch.minimum(blue, green)
    torch.sub(value, torch.minimum(chroma, red, out=chroma), out=chroma)
    is_red = (red - value).add_(1.).clamp_(min=0.)
    is_green = (green - value).add_(1.).clamp_(min=0.)
    is_green.addcmul_(is_green, is_red, value=-1.)
    hue = (green - blue).mul_(is_red)
    part = blue - red
    hue.addcmul_(is_green, part.add_(chroma, alpha=2.))
    is_blue = is_red.add_(is_green).sub_(1.).neg_()
    torch.sub(red, green, out=part)
    hue.addcmul_(is_blue, part.add_(chroma, alpha=4.))
    hue.div_(torch.clamp(chroma, min=1., out=part)).mul_(1 / 6)
    # Hue and saturation are bytes.
    hue.sub_(torch.floor(hue, out=part)).mul_(255.).floor_()
    hue.add_(shift[:, None, None])
    hue.sub_(torch.mul(hue, 1 / 256, out=part).floor_(), alpha=256.)
    torch.clamp(value, min=1., out=part)
    chroma.mul_(255.).div_(part).floor_().mul_(part)
    for channel, (centre, sign, rest) in enumerate(
            ((170., -1., 1.), (85., -1., 1.), (127.5, 1., -2.))):
        share = torch.sub(hue, centre, out=part).abs_().mul_(sign * 6 / 255)
        torch.addcmul(
            value,
            share.add_(rest).clamp_(-1, 0),
            chroma,
            value=1 / 255,
            out=pixels[:, channel])
    pixels.add_(0.5).floor_()


def _grey(pixels: Tensor, weights: Sequence[float]) -> Tensor:
    """Grey with the weights of a recipe, (N, 3, H, W)."""
    total = sum(weights)
    grey = _weighted(pixels, [weight / total for weight in weights])
    # A grey pixel does not change, whatever the weights' rounding.
    grey = grey.add_(1e-3).floor_()[:, None]
    return grey.expand_as(pixels).contiguous()


def _blur(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Blur each view (N, 3, H, W) by its own kernel (N, K)."""
    number, channels, height, width = pixels.shape
    reach = kernels.shape[1] // 2
    weight = kernels[:, None].expand(-1, channels, -1).reshape(
        number * channels, 1, 1, -1)
    pixels = pixels.reshape(1, number * channels, height, width)
    for padding in ((reach, reach, 0, 0), (0, 0, reach, reach)):
        pixels = F.conv2d(
            F.pad(pixels, padding, mode='replicate'),
            weight,
            groups=number * channels)
        weight = weight.transpose(2, 3)
    return pixels.add_(0.5).floor_().view(number, channels, height, width)


def _solarise(pixels: Tensor, threshold: float) -> Tensor:
    """Invert what reaches a threshold."""
    bright = (pixels - (math.ceil(threshold) - 1)).clamp_(0, 1)
    return pixels.addcmul_(pixels, bright, value=-2).add_(bright, alpha=255)
