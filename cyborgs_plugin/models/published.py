"""Faults of the published code, for comparison only.

``configs/ablations/published_*.py`` train with them; docs/differences.md
explains each.
"""
from collections.abc import Callable
from typing import Any

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from ..errors import UserError
from .mask_contrast_head import MaskContrastHead, Regions
from .mask_grounded_neck import MaskGroundedNeck

_MOVED = dict(
    MaskGroundedNeck=('num_ids', 'empty_regions', 'project_by_slot'),
    MaskContrastHead=('predict_by_slot', ))
"""Keys these classes had in commit f15b0f3; ``Published...`` take them now."""


@MODELS.register_module()
class PublishedMaskGroundedNeck(MaskGroundedNeck):
    """The neck with one or several faults of the published code.

    Args:
        num_ids (int, optional): Ids from this number on become region 0; the
            published code has 81. Defaults to None, no limit.
        empty_regions (bool): Fill the slots that hold no region with empty
            ones; needs ``num_ids``. Defaults to False.
        project_by_slot (bool): Project slot by slot, each with its own batch
            statistics. Defaults to False.
        **kwargs: Arguments of :class:`MaskGroundedNeck`.
    """

    def __init__(self,
                 *,
                 num_ids: int | None = None,
                 empty_regions: bool = False,
                 project_by_slot: bool = False,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if empty_regions and (num_ids is None or num_ids < self.num_regions):
            raise UserError(
                'model.neck.empty_regions=True draws absent ids and needs '
                f'model.neck.num_ids >= num_regions={self.num_regions}, but '
                f'got num_ids={num_ids}')
        self.num_ids = num_ids
        self.empty_regions = empty_regions
        self.project_by_slot = project_by_slot

    def cells(self, label_maps: Tensor) -> Tensor:
        """Reduce label maps to the grid; large ids become 0."""
        cells = super().cells(label_maps)
        if self.num_ids is not None:
            cells = cells.masked_fill(cells >= self.num_ids, 0)
        return cells

    def sample(self, cells: Tensor) -> Tensor:
        """Draw the regions of one branch, with empty ones if configured."""
        if self.empty_regions and self.num_ids is not None:
            return sample_regions_with_empty(cells, self.num_regions,
                                             self.num_ids)
        return super().sample(cells)

    def project(self,
                regions: Tensor,
                used: Tensor,
                rows: Tensor | None = None) -> Tensor:
        """Project the regions, slot by slot if configured."""
        if self.project_by_slot:
            return map_slots(lambda x: self.projector((x, ))[0], regions)
        return super().project(regions, used, rows)


@MODELS.register_module()
class PublishedMaskContrastHead(MaskContrastHead):
    """The head with a fault of the published code.

    Args:
        predict_by_slot (bool): Predict slot by slot, each with its own batch
            statistics. Defaults to True.
        **kwargs: Arguments of :class:`MaskContrastHead`.
    """

    def __init__(self,
                 *,
                 predict_by_slot: bool = True,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.predict_by_slot = predict_by_slot

    def predict(self, online: Regions, rows: Tensor | None = None) -> Tensor:
        """Predict the target projections, slot by slot if configured."""
        if not self.predict_by_slot:
            return super().predict(online, rows)
        return map_slots(lambda x: self.predictor((x, ))[0], online[0])


def sample_regions_with_empty(
        cells: Tensor,
        num_regions: int,
        num_ids: int,
        generator: torch.Generator | None = None) -> Tensor:
    """Draw regions; empty ones fill the remaining slots.

    In the published code absent ids have a vanishing probability: they come
    last but still act as positives and negatives.

    Args:
        cells (Tensor): The label of each cell, shape (B, h, w), int64, below
            ``num_ids``.
        num_regions (int): Number of slots N per image, at most ``num_ids``.
        num_ids (int): Number of ids that exist, present or not.
        generator (torch.Generator, optional): On the device of ``cells``.
            Defaults to None, the device's global one.

    Returns:
        Tensor: Region ids, shape (B, N), int64, all of them distinct.
    """
    present = torch.zeros(
        cells.shape[0], num_ids, dtype=torch.float32, device=cells.device)
    present.scatter_(1, cells.flatten(1), 1)
    # Keys of present ids are in [1, 2), those of absent ones in [0, 1).
    keys = torch.rand(
        present.shape, generator=generator, device=cells.device)
    return (keys + present).topk(num_regions, dim=-1).indices


def map_slots(function: Callable[[Tensor], Tensor],
              regions: Tensor) -> Tensor:
    """Apply a function to one slot of all images at a time, used or not.

    Args:
        function (Callable): Maps (B, C) to (B, D).
        regions (Tensor): Region vectors, shape (B, N, C).

    Returns:
        Tensor: Shape (B, N, D).
    """
    return torch.stack([function(slot) for slot in regions.unbind(1)], dim=1)


def refuse_moved_keys(part: str, cfg: Any) -> None:
    """Refuse a key of commit f15b0f3 that its class no longer has.

    Args:
        part (str): Which part of the model this is, ``neck`` or ``head``.
        cfg (dict or nn.Module): Its config. A module is accepted.

    Raises:
        UserError: Names the key and the class that takes it.
    """
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    # A class, as in configs that import, or a name, possibly with a scope.
    kind = getattr(kind, '__name__', str(kind)).rpartition('.')[2]
    for key in _MOVED.get(kind, ()):
        if key in cfg:
            raise UserError(
                f'model.{part}.{key}={cfg[key]!r} turns on a fault of the '
                f'published code, which {kind} does not have: set '
                f"model.{part}.type='Published{kind}', which takes this key")
