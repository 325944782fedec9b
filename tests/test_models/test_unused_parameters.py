"""What no gradient reaches is frozen where processes would wait for it."""
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from cyborgs_plugin.models import unused_parameters
from cyborgs_plugin.models.unused_parameters import freeze_unused

from ..helpers import model_config


def model(in_indices):
    cfg = model_config()
    cfg.neck.in_indices = in_indices
    cfg.neck.projector.in_channels = None
    return MODELS.build(cfg)


@pytest.mark.parametrize('world_size, in_indices, frozen', [
    (1, (0, 1), set()), (2, (0, 1), {'layer4'}), (2, (0, 2), set()),
    (2, (0, ), {'layer3', 'layer4'})])
def test_what_is_frozen(monkeypatch, world_size, in_indices, frozen):
    built = model(in_indices)
    before = {name: value.clone()
              for name, value in built.backbone.state_dict().items()}
    monkeypatch.setattr(unused_parameters, 'get_world_size',
                        lambda: world_size)
    freeze_unused(built.backbone, built.neck)
    assert {name.split('.')[0]
            for name, parameter in built.backbone.named_parameters()
            if not parameter.requires_grad} == frozen
    assert built.backbone.training
    for name, value in built.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name  # no statistics move


def test_what_cannot_be_tried_is_said(monkeypatch, capsys):
    class OfOneSize(nn.Module):

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image):
            raise RuntimeError('expected 96 pixels')

    monkeypatch.setattr(unused_parameters, 'get_world_size', lambda: 2)
    freeze_unused(network := OfOneSize(), model((0, 1)).neck)
    assert network.weight.requires_grad
    assert 'expected 96 pixels' in capsys.readouterr().out
