"""A warning where bfloat16 is emulated, and nowhere else."""
import pytest
import torch
from mmpretrain.models import SelfSupDataPreprocessor
from torch import nn

from cyborgs_plugin import precision
from cyborgs_plugin.engine import BFloat16OptimWrapper
from cyborgs_plugin.segmentation import NetworkMasks


@pytest.fixture
def told(monkeypatch):
    messages = []
    monkeypatch.setattr(precision, 'print_log',
                        lambda message, **kwargs: messages.append(message))
    return messages


@pytest.fixture
def processor(monkeypatch):

    def become(machine, capability):
        monkeypatch.setattr(precision.platform, 'machine', lambda: machine)
        monkeypatch.setattr(precision.torch.backends.cpu,
                            'get_cpu_capability', lambda: capability)

    return become


@pytest.mark.parametrize('machine, capability, slow', [
    ('x86_64', 'AVX2', True),
    ('AMD64', 'DEFAULT', True),
    ('x86_64', 'AVX512', False),
    ('aarch64', 'DEFAULT', False),
])
def test_warns_on_old_processors(told, processor, machine, capability, slow):
    processor(machine, capability)
    precision.warn_if_bfloat16_is_slow('Do without')
    assert len(told) == slow
    if slow:
        assert capability in told[0] and told[0].endswith('Do without')


def test_training_says_what_to_leave_out(told, processor):
    processor('x86_64', 'AVX2')
    model = nn.Linear(2, 2)
    BFloat16OptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert len(told) == 1 and 'Leave --amp out' in told[0]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_masks_say_which_key(told, processor, dtype):
    processor('x86_64', 'AVX2')
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3))
    source = NetworkMasks(layer='0', dtype=dtype)
    source.prepare(
        backbone, SelfSupDataPreprocessor((0, 0, 0), (1, 1, 1), to_rgb=True))
    assert len(told) == (dtype == 'bfloat16')
    if told:
        assert "mask_update.source.dtype='float32'" in told[0]


@pytest.mark.parametrize('capability, slow', [
    ((7, 0), True), ((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_warns_of_older_gpus(told, monkeypatch, capability, slow):
    monkeypatch.setattr(torch.cuda, 'get_device_capability',
                        lambda: capability)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla T4')
    precision.warn_if_bfloat16_is_slow('Do without', 'cuda')
    assert len(told) == slow
    if slow:
        assert 'T4 has no bfloat16' in told[0]
        assert told[0].endswith('Do without')


def test_says_nothing_of_other_devices(told, processor):
    processor('x86_64', 'AVX2')
    precision.warn_if_bfloat16_is_slow('Do without', 'mps')
    assert not told
