"""Where bfloat16 does not pay."""
import logging
import platform

import torch
from mmengine.logging import print_log


def warn_if_bfloat16_is_slow(remedy: str) -> None:
    """Warn where the processor has no bfloat16 and torch has to emulate it.

    Without AVX-512 a forward of ResNet-18 takes 23 times as long in bfloat16
    as in float32 (docs/mask_update.md).

    Args:
        remedy (str): What to set instead, the last sentence of the warning.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if (platform.machine() in ('x86_64', 'AMD64')
            and not capability.startswith('AVX512')):
        print_log(
            f'This processor ({capability}) has no bfloat16: computing in it '
            f'takes many times as long as in float32. {remedy}',
            logger='current',
            level=logging.WARNING)
