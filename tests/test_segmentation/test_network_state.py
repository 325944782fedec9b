"""What a checkpoint holds of the network that made a round."""
import torch
from torch import nn

from cyborgs_plugin.segmentation.bootstrap import network_state


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
