"""The memory format of a frozen network's forward."""
import pytest
import torch
from torch import nn

from cyborgs_plugin.ops.memory_format import forward_format

CPU, GPU = torch.device('cpu'), torch.device('cuda')
DEPTHWISE = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8))


@pytest.mark.parametrize('network, device, expected', [
    (DEPTHWISE, CPU, torch.channels_last),
    (DEPTHWISE, GPU, torch.contiguous_format),
    (nn.Sequential(nn.Conv2d(8, 8, 3, groups=2)), GPU, torch.channels_last),
    (nn.Sequential(nn.Conv2d(1, 8, 3)), GPU, torch.channels_last),
    (nn.Linear(3, 3), GPU, torch.channels_last),
])
def test_depthwise_convolutions_on_a_gpu_have_channels_first(
        network, device, expected):
    assert forward_format(network, device) == expected
