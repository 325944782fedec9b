"""The target's moving average, in few kernels."""
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class ForeachEMA(ExponentialMovingAverage):
    """``ExponentialMovingAverage`` of all parameters at once.

    The values are equal to the bit, and so are the checkpoints. The base class
    launches a kernel for each parameter and makes the host wait twice for the
    number of steps. This class keeps that number on both sides.

    Args:
        model (nn.Module): The model to be averaged.
        momentum (float): 1 - decay. Defaults to 0.0002.
        **kwargs: Arguments of mmengine's ``ExponentialMovingAverage``.
    """

    def __init__(self,
                 model: nn.Module,
                 momentum: float = 0.0002,
                 **kwargs: Any) -> None:
        super().__init__(model, momentum, **kwargs)
        self._count: int | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards a model; copy it at the first call.

        Args:
            model (nn.Module): The model to be averaged.
        """
        if self._count is None:
            self._count = int(self.steps)
        sources = (
            model.state_dict()
            if self.update_buffers else dict(model.named_parameters()))
        pairs = [(average.data, sources[name].data.to(average.device))
                 for name, average in self.avg_parameters.items()]
        if self._count == 0:
            _copy(pairs)
        elif self._count % self.interval == 0:
            moving = [pair for pair in pairs if pair[0].is_floating_point()]
            torch._foreach_lerp_([average for average, _ in moving],
                                 [source for _, source in moving],
                                 self.momentum)
        if not self.update_buffers:
            _copy([
                (average.data, source.data.to(average.device))
                for average, source in zip(self.module.buffers(),
                                           model.buffers())
            ])
        self.steps += 1
        self._count += 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Count on from the steps of a checkpoint."""
        super()._load_from_state_dict(*args, **kwargs)
        self._count = None


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy the second of each pair into the first."""
    if pairs:
        torch._foreach_copy_([average for average, _ in pairs],
                             [source for _, source in pairs])
