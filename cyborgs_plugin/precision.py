"""Where bfloat16 does not pay."""
import logging
import platform

import torch
from mmengine.logging import print_log


def warn_if_bfloat16_is_slow(asked_by: str) -> bool:
    """Warn where the processor has no bfloat16 and torch has to emulate it.

    Without AVX-512 a forward of ResNet-18 takes 23 times as long in bfloat16
    as in float32 (docs/mask_update.md).

    Args:
        asked_by (str): The option that asks for bfloat16, and what to set
            instead.

    Returns:
        bool: Whether it warned.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    slow = (platform.machine() in ('x86_64', 'AMD64')
            and not capability.startswith('AVX512'))
    if slow:
        print_log(
            f'This processor ({capability}) has no bfloat16: computing in it '
            f'takes many times as long as in float32. {asked_by}',
            logger='current',
            level=logging.WARNING)
    return slow
