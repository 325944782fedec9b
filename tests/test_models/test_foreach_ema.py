"""ForeachEMA against mmengine's ExponentialMovingAverage."""
import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from cyborgs_plugin.models import ForeachEMA


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1))


def moved(model, seed):
    """Another network, in all parameters and buffers."""
    other = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(torch.randn(tensor.shape).to(tensor.dtype))
    return other


def same(first, second):
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize('settings', [
    dict(), dict(interval=2), dict(update_buffers=True)])
def test_equal_to_the_bit(settings):
    model = network()
    theirs, ours = (
        kind(model, momentum=0.3, **settings)
        for kind in (ExponentialMovingAverage, ForeachEMA))
    for step in range(5):
        model = moved(model, step)
        for average in (theirs, ours):
            average.update_parameters(model)
        same(theirs, ours)
    assert int(ours.steps) == 5


def test_a_checkpoint_is_continued():
    model = network()
    theirs, ours = (
        kind(model, momentum=0.3)
        for kind in (ExponentialMovingAverage, ForeachEMA))
    for average in (theirs, ours):  # one has begun, the other is further
        average.update_parameters(model)
    theirs.update_parameters(moved(model, 1))
    ours.load_state_dict(theirs.state_dict())
    for average in (theirs, ours):
        average.update_parameters(moved(model, 2))
    same(theirs, ours)
    fresh = ForeachEMA(model, momentum=0.3)
    fresh.update_parameters(moved(model, 3))
    fresh.load_state_dict(ForeachEMA(model, momentum=0.3).state_dict())
    fresh.update_parameters(model)  # the first step again: it becomes it
    assert torch.equal(fresh.module[0].weight, model[0].weight)
