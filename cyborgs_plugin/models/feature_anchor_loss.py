"""The loss that keeps features close to those of the target network."""
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

Stages = tuple[Tensor, ...]
"""Feature maps of one view, each (B, C_i, H_i, W_i)."""


@MODELS.register_module()
class FeatureAnchorLoss(nn.Module):
    """Keep the feature of each location close to the target's.

    Use it when training starts from good weights. The target network starts as
    a copy of them. As a ``FrozenTarget`` it remains that copy, and the loss is
    the distance from the start; as a moving average it follows slowly.

    The distance is 1 - cosine of the vectors at a location, averaged over the
    locations of a stage, then over the stages and views, so that each stage
    has the same weight whatever its size and scale.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, online_feats: tuple[Stages, ...],
                target_feats: tuple[Stages, ...]) -> Tensor:
        """Compute the loss.

        Args:
            online_feats (tuple[Stages, ...]): Outputs of the online backbone
                for each view.
            target_feats (tuple[Stages, ...]): Outputs of the target; they get
                no gradient.

        Returns:
            Tensor: A scalar, from 0 (the same directions) to 2.
        """
        distances = [
            1 - F.cosine_similarity(online, target.detach(), dim=1).mean()
            for views in zip(online_feats, target_feats, strict=True)
            for online, target in zip(*views, strict=True)
        ]
        return self.loss_weight * torch.stack(distances).mean()
