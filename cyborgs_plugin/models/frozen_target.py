"""A target network that stays what it was at the start."""
from mmengine.model import BaseAveragedModel
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class FrozenTarget(BaseAveragedModel):
    """A target that equals the online network at the start, and never moves.

    For ``CYBORGS(target_ema=dict(type='FrozenTarget'))`` that starts from
    weights which are good already: the online regions then predict regions of
    the network it started from.
    """

    def update_parameters(self, model: nn.Module) -> None:
        """Copy the online network at the first call; stay from then on."""
        if self.steps == 0:
            super().update_parameters(model)

    def avg_func(self, averaged_param: Tensor, source_param: Tensor,
                 steps: int) -> None:
        """Leave a parameter alone."""
