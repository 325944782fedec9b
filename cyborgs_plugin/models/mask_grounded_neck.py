"""The neck that turns feature maps into projected region vectors."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor

from ..errors import UserError
from .regions import cell_labels, map_regions, pool_stages, sample_regions


@MODELS.register_module()
class MaskGroundedNeck(BaseModule):
    """Fuse stages, pool them by region, project the regions.

    The chosen stages are averaged to one grid (or repeated, if they are
    coarser) and concatenated with equal weights, in the order of
    ``in_indices``. The vector of a region is the mean over its cells. Stages
    may have their channels last, like those of timm's Swin; this is detected
    by the projector's ``in_channels``.

    Implementation of the mask-grounded features of `CYBORGS
    <https://arxiv.org/abs/2203.09343>`_, Sec. 3.1.

    Args:
        projector (dict): Config of the projector, a neck that maps a 1-tuple
            (M, C) to a 1-tuple (M, D). C is the sum of the channels of the
            chosen stages; if it is not given, :class:`CYBORGS` sets it.
        num_regions (int): Regions drawn per image and view. Defaults to 16.
        grid_stride (int): Side of a grid cell, in pixels of a view. Defaults
            to 32.
        in_indices (Sequence[int]): Indices of the backbone's outputs to fuse,
            in order. Defaults to (0, 1, 2).
        init_cfg (dict or list[dict], optional): Initialization config.
            Defaults to None.
    """

    def __init__(self,
                 projector: dict,
                 num_regions: int = 16,
                 grid_stride: int = 32,
                 in_indices: Sequence[int] = (0, 1, 2),
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if num_regions < 1:
            raise UserError('model.neck.num_regions must be at least 1, but '
                            f'got {num_regions}')
        self.projector = MODELS.build(projector)
        self._in_channels: int | None = projector.get('in_channels')
        self.num_regions = num_regions
        self.grid_stride = grid_stride
        self.in_indices = tuple(in_indices)

    def cells(self, label_maps: Tensor) -> Tensor:
        """Reduce label maps to the grid.

        Args:
            label_maps (Tensor): Ids at the views' resolution, (B, H, W),
                integer.

        Returns:
            Tensor: The label of each cell, shape (B, ceil(H / grid_stride),
            ceil(W / grid_stride)), int64.
        """
        return cell_labels(label_maps, self.grid_size(label_maps))

    def grid_size(self, view: Tensor) -> tuple[int, int]:
        """The grid of a view.

        Args:
            view (Tensor): Shape (..., H, W).

        Returns:
            tuple[int, int]: ceil(H / grid_stride), ceil(W / grid_stride).
        """
        height, width = (-(-size // self.grid_stride)
                         for size in view.shape[-2:])
        return height, width

    def sample(self, cells: Tensor) -> Tensor:
        """Draw the regions of one branch.

        Args:
            cells (Tensor): The label of each cell, shape (B, h, w), int64.

        Returns:
            Tensor: Region ids, shape (B, num_regions), int64; -1 is unused.
        """
        return sample_regions(cells, self.num_regions)

    def fuse(self, feats: tuple[Tensor, ...],
             grid_size: tuple[int, int]) -> Tensor:
        """Bring the chosen stages to one grid and concatenate them.

        Args:
            feats (tuple[Tensor, ...]): Outputs of the backbone, each
                (B, C_i, H_i, W_i), or all of them (B, H_i, W_i, C_i).
            grid_size (tuple[int, int]): The grid's height and width (h, w).

        Returns:
            Tensor: Shape (B, sum of C_i, h, w).

        Raises:
            ValueError: See :meth:`channels_first`.
        """
        feats = self.channels_first(feats)
        return torch.cat([
            _average(feats[index], grid_size) for index in self.in_indices
        ], 1)

    def channels_first(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Bring all outputs of the backbone to one layout.

        Args:
            feats (tuple[Tensor, ...]): Each (B, C_i, H_i, W_i), or all of
                them (B, H_i, W_i, C_i).

        Returns:
            tuple[Tensor, ...]: Each (B, C_i, H_i, W_i), without a copy.

        Raises:
            ValueError: If the backbone has too few stages, or their channels
                do not fit the projector.
        """
        shapes = stage_shapes(feats, self.in_indices)
        first, last = (sum(shape[axis] for shape in shapes)
                       for axis in (1, -1))
        if self._in_channels in (None, first):
            return feats
        if self._in_channels == last:
            return tuple(feat.permute(0, 3, 1, 2) for feat in feats)
        # With square views, the channels are the axis that differs from the
        # others.
        likely = last if all(s[1] == s[2] != s[3] for s in shapes) else first
        raise UserError(
            f'model.neck.projector.in_channels={self._in_channels}, but the '
            f'outputs {self.in_indices} of the backbone, {shapes}, have '
            f'{first} channels in axis 1 and {last} in axis 3: set '
            f'model.neck.projector.in_channels={likely}')

    def project(self,
                regions: Tensor,
                used: Tensor,
                rows: Tensor | None = None) -> Tensor:
        """Project the regions of all images as one batch.

        Args:
            regions (Tensor): Region vectors, shape (B, num_regions, C).
            used (Tensor): Which slots hold a region, (B, num_regions), bool.
            rows (Tensor, optional): See :func:`map_regions`.
                Defaults to None.

        Returns:
            Tensor: Shape (B, num_regions, D), zeros in unused slots.
        """
        return map_regions(lambda x: self.projector((x, ))[0], regions, used,
                           rows)

    def forward(self,
                feats: tuple[Tensor, ...],
                cells: Tensor,
                region_ids: Tensor | None = None,
                rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw regions, pool them and project them.

        Args:
            feats (tuple[Tensor, ...]): Outputs of the backbone, each
                (B, C_i, H_i, W_i).
            cells (Tensor): The label of each cell, shape (B, h, w), int64,
                from :meth:`cells`.
            region_ids (Tensor, optional): Regions (B, num_regions), int64,
                from :meth:`sample`. Defaults to None, drawn here.
            rows (Tensor, optional): Their :func:`used_rows`.
                Defaults to None.

        Returns:
            tuple[Tensor, Tensor]: Projections (B, num_regions, D) and region
            ids (B, num_regions), int64, -1 where a slot is unused.
        """
        if region_ids is None:
            region_ids = self.sample(cells)  # (B, N)
        regions = self.pool(feats, cells, region_ids)  # (B, N, C)
        return self.project(regions, region_ids >= 0, rows), region_ids

    def pool(self, feats: tuple[Tensor, ...], cells: Tensor,
             region_ids: Tensor) -> Tensor:
        """Average all stages, in the order of :meth:`fuse`, over the regions.

        Args:
            feats (tuple[Tensor, ...]): Outputs of the backbone, each
                (B, C_i, H_i, W_i).
            cells (Tensor): The label of each cell, shape (B, h, w), int64.
            region_ids (Tensor): Shape (B, num_regions), int64.

        Returns:
            Tensor: Shape (B, num_regions, sum of C_i).
        """
        feats = self.channels_first(feats)
        grid_size = cells.shape[1], cells.shape[2]
        chosen = [feats[index] for index in self.in_indices]
        return pool_stages([
            stage if _divides(grid_size, stage) else F.adaptive_avg_pool2d(
                stage, grid_size) for stage in chosen
        ], cells, region_ids)


def stage_shapes(feats: Sequence[Tensor],
                 in_indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Check that a backbone has the chosen outputs and that they are maps.

    Args:
        feats (Sequence[Tensor]): Outputs of the backbone.
        in_indices (Sequence[int]): Which of them to fuse.

    Returns:
        list[tuple[int, ...]]: Their shapes, with four axes each.

    Raises:
        UserError: If there are too few, or one is not a map.
    """
    if max(in_indices) >= len(feats):
        raise UserError(
            f'model.neck.in_indices={tuple(in_indices)} needs '
            f'{max(in_indices) + 1} outputs of the backbone, but it gives '
            f'{len(feats)}: set model.backbone.out_indices')
    shapes = [tuple(feats[index].shape) for index in in_indices]
    if any(len(shape) != 4 for shape in shapes):
        raise UserError(
            f'model.neck.in_indices={tuple(in_indices)} needs maps '
            '(B, C, H, W) or (B, H, W, C), but the backbone gives '
            f"{shapes}: set model.backbone.out_type='featmap' (a transformer "
            'of mmpretrain), gap_before_final_norm=False (its ConvNeXt) or '
            'features_only=True (of timm)')
    return shapes


def _average(feature: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Average a map over the cells of a grid, or repeat it.

    If the grid divides the map, plain average pooling gives the same values
    faster; on a GPU the gradient of adaptive pooling is not deterministic.
    """
    (height, width), (h, w) = feature.shape[2:], grid_size
    if _divides(grid_size, feature):
        return F.avg_pool2d(feature, (height // h, width // w))
    return F.adaptive_avg_pool2d(feature, grid_size)


def _divides(grid_size: tuple[int, int], feature: Tensor) -> bool:
    """Whether each cell of a grid covers whole locations of a map."""
    return all(size >= cell and size % cell == 0
               for size, cell in zip(feature.shape[2:], grid_size))
