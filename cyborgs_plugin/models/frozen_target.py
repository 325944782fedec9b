"""A target network that never changes after the start."""
from mmengine.model import BaseAveragedModel
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class FrozenTarget(BaseAveragedModel):
    """A target that copies the online network at the start and never moves.

    Use it as ``CYBORGS(target_ema=dict(type='FrozenTarget'))`` when training
    starts from good weights. The online regions then predict regions of the
    network that training started from.
    """

    def update_parameters(self, model: nn.Module) -> None:
        """Copy the online network at the first call; then do nothing."""
        if self.steps == 0:
            super().update_parameters(model)

    def avg_func(self, averaged_param: Tensor, source_param: Tensor,
                 steps: int) -> None:
        """Do not change a parameter."""
