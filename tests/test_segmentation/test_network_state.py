"""What a checkpoint holds of the network that made a round."""
from functools import partial

import pytest
import torch
from mmengine.model.efficient_conv_bn_eval import (
    turn_on_efficient_conv_bn_eval,
)
from mmengine.runner import turn_on_activation_checkpointing
from torch import nn

from cyborgs_plugin.segmentation.layer_output import run_to_layer
from cyborgs_plugin.segmentation.network_state import copy_of, network_state

from ..helpers import network


class Attention(nn.Module):
    """Its inner parts are used and not called; images of one size only."""

    def __init__(self, size=64):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.MultiheadAttention(8, 2, batch_first=True)
        self.places = nn.Parameter(torch.randn(1, (size // 4)**2, 8))
        self.later = nn.Linear(8, 8)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2) + self.places
        return self.later(self.block(x, x, x)[0])


def test_parts_that_are_used_and_not_called():
    state = network_state(Attention(), 'block')
    assert state.keys() == {
        'places', 'stem.weight', 'stem.bias', 'block.in_proj_weight',
        'block.in_proj_bias', 'block.out_proj.weight', 'block.out_proj.bias'}


def test_whole_state_of_a_network_that_does_not_take_the_size():
    model = Attention(224)
    state = network_state(model, 'block')
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name])
               for name, tensor in model.state_dict().items())


def test_whole_state_where_the_layer_is_never_called():
    model = Attention()
    model.unused = nn.Linear(8, 8)
    assert network_state(model, 'unused').keys() == model.state_dict().keys()


def test_network_state_is_all_that_the_layer_needs():
    first, second = network(0), network(1)
    state = network_state(first, 'layer2.1')
    assert {name.split('.')[0] for name in state} == {
        'conv1', 'bn1', 'layer1', 'layer2'}
    assert sum(x.numel() for x in state.values()) < 0.1 * sum(
        x.numel() for x in first.state_dict().values())
    second.load_state_dict(state, strict=False)
    assert first.training and not any(
        module._forward_pre_hooks for module in first.modules())
    for model in (first, second):
        model.eval()
    image = torch.rand(1, 3, 40, 56)
    outputs = [model.layer2(model.layer1(model.maxpool(
        model.norm1(model.conv1(image)).relu()))) for model in
        (first, second)]
    assert torch.equal(*outputs)
    assert network_state(network(), None).keys() == network(
        ).state_dict().keys()


@pytest.mark.parametrize('turn_on, module', [
    (turn_on_activation_checkpointing, 'layer1'),
    (turn_on_activation_checkpointing, ''),
    (turn_on_efficient_conv_bn_eval, 'layer1.0'),
    (turn_on_efficient_conv_bn_eval, ''),
])
def test_a_copy_runs_by_itself_whatever_the_runner_turned_on(turn_on, module):
    """Else masks are made of the network in training, or not at all."""
    plain, switched = network(), nn.Module()
    switched.net = network()
    turn_on(switched, f'net.{module}'.rstrip('.'))
    image = torch.rand(1, 3, 64, 48)
    wanted = run_to_layer(plain.eval() or plain, 'layer2.1', image)
    copy = copy_of(switched.net)
    copy.eval()
    means = [norm.running_mean.clone() for norm in switched.net.modules()
             if isinstance(norm, nn.BatchNorm2d)]
    assert torch.allclose(run_to_layer(copy, 'layer2.1', image), wanted,
                          atol=1e-5)
    assert all(
        torch.equal(mean, norm.running_mean)
        for mean, norm in zip(means, (
            norm for norm in switched.net.modules()
            if isinstance(norm, nn.BatchNorm2d))))
    assert network_state(switched.net, 'layer2.1').keys() == network_state(
        plain, 'layer2.1').keys()


def test_a_copy_keeps_a_forward_of_the_network_itself():
    model = nn.Linear(2, 2)
    model.forward = partial(torch.mul, torch.ones(2))
    assert torch.equal(copy_of(model)(torch.tensor([3., 4.])),
                       torch.tensor([3., 4.]))
