"""Masks that a training step makes for itself."""
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import UserError
from ..ops.kmeans_of_each import kmeans_of_each

_KEY = 'model.in_step_masks'


@MODELS.register_module()
class InStepMasks(nn.Module):
    """Divide both views of an image into regions by the target's features.

    The cells of both views of an image are clustered together, so that a
    cluster that reaches into both is one region of both; each image is
    clustered alone. A cell is represented by one stage of the target network.
    The mean of a view is subtracted from its cells first, so that a change of
    all of a view, such as of its colours, tells no cells apart.

    The number of clusters falls from the first to the last of ``num_clusters``
    along half a cosine, from the first step of a run to the last: from small
    regions to those that are more like objects.

    In place of ``MaskUpdateHook`` and its mask bank; after `R2O
    <https://arxiv.org/abs/2208.11821>`_ (k-means of the target's features, a
    falling number of regions) and `CrOC <https://arxiv.org/abs/2303.13245>`_
    (both views of an image together, without positions here).

    Args:
        num_clusters (int or tuple[int, int]): K of an image: at the first and
            at the last step, or one number for all. Lowered to the number of
            cells. Defaults to (16, 4).
        num_iters (int): Iterations of k-means. Defaults to 5.
        in_index (int): Index of the backbone's output to cluster. Cells of a
            later one have seen most of their view, and clusters may tell the
            views apart. Defaults to 1, stage 3 of a ResNet.
    """

    def __init__(self,
                 num_clusters: int | Sequence[int] = (16, 4),
                 num_iters: int = 5,
                 in_index: int = 1) -> None:
        super().__init__()
        ends = (num_clusters, num_clusters) if isinstance(
            num_clusters, int) else tuple(num_clusters)
        if len(ends) != 2 or not all(
                isinstance(end, int) and end > 0 for end in ends):
            raise UserError(
                f'{_KEY}.num_clusters must be a number of regions from 1 on, '
                'or one for the first step and one for the last, but is '
                f'{num_clusters!r}')
        if num_iters < 0:
            raise UserError(f'{_KEY}.num_iters must be at least 0, but is '
                            f'{num_iters}')
        self.num_clusters = ends
        self.num_iters = num_iters
        self.in_index = in_index

    def clusters_now(self) -> int:
        """K at the current step of a run; outside of a run the first."""
        hub = MessageHub.get_current_instance()
        return self.clusters_at(
            hub.get_info('iter', 0) / max(1, hub.get_info('max_iters') or 1))

    def clusters_at(self, progress: float) -> int:
        """K after a part of a run.

        Args:
            progress (float): The part, 0 to 1.
        """
        first, last = self.num_clusters
        return round(
            last + (first - last) * (1 + math.cos(math.pi * progress)) / 2)

    @torch.no_grad()
    def forward(self, feats: Sequence[tuple[Tensor, ...]],
                grid_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Assign the cells of all views of each image to regions.

        Args:
            feats (Sequence[tuple[Tensor, ...]]): Outputs of the target
                backbone for each view, each (B, C_i, H_i, W_i), any floating
                dtype.
            grid_sizes (Sequence[tuple[int, int]]): Height and width (h, w) of
                each view's grid.

        Returns:
            list[Tensor]: The region of each cell of each view, shape
            (B, h, w), int64.

        Raises:
            UserError: If the backbone has no such output.
        """
        if self.in_index >= len(feats[0]):
            raise UserError(
                f'{_KEY}.in_index={self.in_index}, but the backbone gives '
                f'{len(feats[0])} outputs: set it below that, or '
                'model.backbone.out_indices')
        # In half precision the distances of like cells are mostly rounding.
        with torch.autocast(feats[0][0].device.type, enabled=False):
            points = []
            for maps, size in zip(feats, grid_sizes):
                cells = F.adaptive_avg_pool2d(
                    maps[self.in_index].float(), size).flatten(2)  # (B, C, M)
                points.append(cells - cells.mean(dim=2, keepdim=True))
            labels = kmeans_of_each(
                F.normalize(torch.cat(points, 2), dim=1).transpose(1, 2),
                self.clusters_now(), self.num_iters)
        parts = labels.split([h * w for h, w in grid_sizes], dim=1)
        return [part.unflatten(1, size)
                for part, size in zip(parts, grid_sizes)]
