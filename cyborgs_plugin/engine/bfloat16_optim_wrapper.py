"""Mixed precision on a CPU, which mmengine does not support."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import nn

from ..precision import warn_if_bfloat16_is_slow


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Run the forward in bfloat16, weights and optimiser in float32.

    mmengine's ``AmpOptimWrapper`` refuses to start without a GPU. bfloat16 has
    the range of float32, so the loss needs no scaling. It is faster on CPUs
    with AVX512-BF16 or AMX. Others emulate it and are slower; if they are many
    times slower, a warning says so.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parameter = self.optimizer.param_groups[0]['params'][0]
        warn_if_bfloat16_is_slow('Leave --amp out', parameter.device.type)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast the forward; see ``OptimWrapper.optim_context``."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
