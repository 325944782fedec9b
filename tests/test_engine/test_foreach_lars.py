"""ForeachLARS against mmpretrain's LARS."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.engine.optimizers import LARS
from mmpretrain.registry import MODELS
from torch import nn

from cyborgs_plugin.engine import ForeachLARS

from ..helpers import ROOT, model_config


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1),
        nn.Linear(6, 2))


def groups(model):
    """Weights with, the others without a layer-wise rate and decay."""
    return [
        dict(params=[param]) if param.ndim > 1 else dict(
            params=[param], weight_decay=0., lars_exclude=True)
        for param in model.parameters()
    ]


def step(model, optimizer, number):
    torch.manual_seed(number)
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    model[0].bias.grad = None  # not reached by this loss
    if number == 1:
        model[2].weight.grad.zero_()
    optimizer.step()


def close(first, second):
    for one, other in zip(first.parameters(), second.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('settings', [
    dict(momentum=0.9, weight_decay=0.1),
    dict(momentum=0.9, weight_decay=0.1, nesterov=True),
    dict(momentum=0.9, dampening=0.5, eta=0.5),
    dict(weight_decay=0.1)
])
def test_the_same_steps(settings):
    models = [network(), network()]
    with torch.no_grad():
        for model in models:
            model[3].weight.zero_()  # no norm, so no layer-wise rate
    optimizers = [
        kind(groups(model), lr=0.2, **settings)
        for kind, model in zip((LARS, ForeachLARS), models)
    ]
    for number in range(4):
        for model, optimizer in zip(models, optimizers):
            step(model, optimizer, number)
            optimizer.param_groups[0]['lr'] = 0.2 / (number + 1)
        close(*models)
    # the weights did move
    assert not torch.equal(models[1][0].weight, network()[0].weight)


def test_checkpoints_fit_both_ways():
    model = network()
    theirs = LARS(groups(model), lr=0.2, momentum=0.9)
    step(model, theirs, 0)
    other = copy.deepcopy(model)
    ours = ForeachLARS(groups(other), lr=0.2, momentum=0.9)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for number in (2, 3):
        step(model, theirs, number)
        step(other, ours, number)
        close(model, other)
    assert (ours.state_dict()['state'].keys() ==
            theirs.state_dict()['state'].keys())


def test_the_recipe_takes_it():
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(f'{ROOT}/configs/_base_/schedules/lars_800e.py')
    model = MODELS.build(model_config())
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is ForeachLARS
    assert {group.get('lars_exclude', False)
            for group in wrapper.param_groups} == {True, False}


def test_a_closure():
    model = network()
    optimizer = ForeachLARS(groups(model), lr=0.2)

    def closure():
        loss = model[0](torch.ones(1, 3, 4, 4)).sum()
        loss.backward()
        return loss

    before = model[0].weight.clone()
    assert optimizer.step(closure).requires_grad
    assert not torch.equal(before, model[0].weight)
