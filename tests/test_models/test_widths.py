"""The projector's width is that of the backbone."""
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.models.widths import build_to_fit

from ..helpers import fake_batch, model_config


@MODELS.register_module()
class MapsOf(nn.Module):
    """Gives maps of some widths and strides, in one layout."""

    def __init__(self, last=False, squares=False, tokens=False):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.last, self.squares, self.tokens = last, squares, tokens

    def forward(self, x):
        if self.squares:
            assert x.shape[2] == x.shape[3] == 224, 'of one size'
        x = self.norm(x).mean(1, keepdim=True)
        outputs = [x[..., ::stride, ::stride].repeat(1, width, 1, 1)
                   for width, stride in ((12, 8), (24, 16), (48, 32))]
        if self.last:
            outputs = [output.permute(0, 2, 3, 1) for output in outputs]
        if self.tokens:
            outputs[1] = outputs[1].flatten(2)
        return tuple(outputs)


def in_channels(in_indices=(0, 1, 2), given=None, **options):
    neck = dict(projector=dict(in_channels=given), in_indices=in_indices)
    backbone, fitting = build_to_fit(dict(type='MapsOf', **options), neck)
    assert neck['projector']['in_channels'] is given  # the config's stays
    assert backbone.norm.training and backbone.norm.num_batches_tracked == 0
    return fitting['projector']['in_channels']


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('squares', [False, True])
def test_sum_of_the_stages(last, squares):
    kind = dict(last=last, squares=squares)
    assert in_channels(**kind) == 12 + 24 + 48
    assert in_channels((2, 0), **kind) == 60
    assert in_channels(given=84, **kind) == 84


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match='model.neck.projector.in_channels=896'
                       r'.* MapsOf have \[12, 24, 48\] .*to 84'):
        in_channels(given=896)
    with pytest.raises(UserError, match='in_indices=.*needs 4 outputs'):
        in_channels((0, 3))
    with pytest.raises(UserError, match='(?s)maps.*out_type='):
        in_channels(tokens=True)
    assert in_channels((0, 2), tokens=True) == 60


def test_a_backbone_that_takes_no_size():
    class Refuses(nn.Module):

        def forward(self, x):
            raise ValueError(f'not {tuple(x.shape[2:])}')

    neck = dict(projector=dict(type='LinearNeck'))
    with pytest.raises(UserError, match='in_channels is not given.*Refuses'
                       r'.*ValueError: not \(224, 224\)'):
        build_to_fit(Refuses(), neck)
    neck['projector']['in_channels'] = 5
    assert build_to_fit(Refuses(), neck)[1] is neck


@pytest.mark.parametrize('backbone, width', [
    (dict(depth=34), 896), (dict(depth=18, base_channels=16,
                                 stem_channels=16), 224)])
def test_another_backbone_alone(backbone, width):
    """Nothing but the backbone differs from a config, and it trains."""
    cfg = model_config()
    del cfg.neck.projector['in_channels']
    cfg.backbone.update(backbone)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.update_target()
    assert model.neck.projector.fc0.in_features == width
    data = model.data_preprocessor(fake_batch(), True)
    assert torch.isfinite(model(**data, mode='loss')['loss_contrast'])


def test_deriving_draws_nothing():
    """A seed gives the weights that it gives where the width is set."""
    states = []
    for width in (896, None):
        cfg = model_config()
        cfg.neck.projector.in_channels = width
        torch.manual_seed(0)
        model = MODELS.build(cfg)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name])
               for name, value in states[0].items())
