"""All numbers of a step by one copy."""
import math

import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.runner.priority import get_priority

from cyborgs_plugin.engine import LoggedScalarsHook


def test_numbers_are_those_of_item():
    tensors = dict(loss=torch.tensor(0.1), images=torch.tensor(2**24 + 1),
                   one=torch.ones(1, dtype=torch.float16),
                   nan=torch.tensor(float('nan')))
    outputs = dict(tensors, several=torch.zeros(2), name='x', plain=3)
    LoggedScalarsHook().after_train_iter(None, 0, outputs=outputs)
    assert math.isnan(outputs.pop('nan'))
    assert torch.equal(outputs.pop('several'), torch.zeros(2))
    assert outputs == dict(loss=torch.tensor(0.1).item(), images=2**24 + 1,
                           one=1, name='x', plain=3)


def test_nothing_to_take():
    hook, outputs = LoggedScalarsHook(), dict(plain=3)
    hook.after_train_iter(None, 0, outputs=outputs)
    hook.after_train_iter(None, 0, outputs=None)
    assert outputs == dict(plain=3)


def test_it_comes_before_mmengines_own():
    assert get_priority(LoggedScalarsHook.priority) < get_priority(
        RuntimeInfoHook.priority)
