"""Where bfloat16 is slow."""
import logging
import platform

import torch
from mmengine.logging import print_log


def warn_if_bfloat16_is_slow(remedy: str, device: str = 'cpu') -> None:
    """Warn if the hardware has no bfloat16, so that torch must emulate it.

    Without AVX-512 a forward of ResNet-18 takes 23 times as long in bfloat16
    as in float32 (docs/mask_update.md). NVIDIA's GPUs have it since compute
    capability 8 (A100); V100 and T4 do not.

    Args:
        remedy (str): What to set instead: the last sentence of the warning.
        device (str): Type of the device, 'cpu' or 'cuda'; others are not
            checked. Defaults to 'cpu'.
    """
    if device == 'cuda' and torch.cuda.get_device_capability() < (8, 0):
        print_log(
            f'{torch.cuda.get_device_name()} has no bfloat16: computing in it '
            f'is slower than in float32. {remedy}',
            logger='current',
            level=logging.WARNING)
    if device != 'cpu':
        return
    capability = torch.backends.cpu.get_cpu_capability()
    if (platform.machine() in ('x86_64', 'AMD64')
            and not capability.startswith('AVX512')):
        print_log(
            f'This processor ({capability}) has no bfloat16: computing in it '
            f'takes many times as long as in float32. {remedy}',
            logger='current',
            level=logging.WARNING)
