"""The backbone around a network of timm."""
import copy

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.models.timm_network import choose_outputs

timm = pytest.importorskip('timm')


def build(name='mobilenetv3_small_050', **more):
    torch.manual_seed(0)
    return MODELS.build(dict(type='TimmNetwork', model_name=name, **more))


@pytest.mark.parametrize('strides, chosen', [
    ([2, 4, 8, 16, 32], [2, 3, 4]),
    ([4, 8, 16, 32], [1, 2, 3]),
    ([16, 32, 64], [0, 1, 2]),
    ([8, 8, 16, 32], [1, 2, 3]),  # the later of two
    ([16] * 12, [2, 5, 8, 11]),
    ([14] * 24, [5, 11, 17, 23]),
    ([16] * 2, [0, 1]),
    ([2, 4], [1]),
    ([32], [0]),
])
def test_outputs_by_their_strides(strides, chosen):
    assert choose_outputs(strides) == chosen


def test_the_weights_are_those_that_timm_draws():
    backbone = build()
    torch.manual_seed(0)
    expected = timm.create_model('mobilenetv3_small_050', num_classes=0)
    backbone.init_weights()  # the toolbox draws no others
    for key, value in expected.state_dict().items():
        assert torch.equal(backbone.state_dict()[f'network.{key}'], value)


@pytest.mark.parametrize('indices', [(), (2, 5), (-1, )])
def test_outputs_that_there_are_not(indices):
    with pytest.raises(UserError, match='has 5 outputs, 0 to 4, at strides'):
        build(out_indices=indices)


def test_an_argument_that_it_does_not_take():
    with pytest.raises(UserError, match="cannot build 'resnet18'.*wide"):
        build('resnet18', wide=2)
    with pytest.raises(UserError, match='Invalid pretrained tag'):
        build('resnet18.none')


def test_norms_that_activate_are_not_lost():
    """torch's conversion, which the Runner calls, drops their activation."""
    backbone = build()
    backbone.train()
    images = torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(backbone)(images)[-1]
    copy.deepcopy(backbone).train()  # of the moving average
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(
        copy.deepcopy(backbone))
    with pytest.raises(UserError, match='BatchNormAct2d.*set sync_bn=None'):
        converted.train()
    converted.eval()
    backbone.eval()
    assert not torch.allclose(converted(images)[-1], backbone(images)[-1])
    assert before.shape == (2, 288, 2, 2)
    plain = nn.SyncBatchNorm.convert_sync_batchnorm(build('resnet18'))
    plain.train()  # its norms are no more than norms


def test_on_several_devices_norms_are_timms(monkeypatch):
    at = 'cyborgs_plugin.models.timm_network'
    monkeypatch.setattr(f'{at}.is_distributed', lambda: True)
    assert 'SyncBatchNorm' not in str(build())
    monkeypatch.setattr(f'{at}.get_device', lambda: 'cuda')
    backbone = build()
    backbone.train()
    norms = {type(module).__name__ for module in backbone.modules()
             if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert norms == {'SyncBatchNormAct'}


def test_norms_are_held():
    backbone = build(norm_eval=True)
    before = {k: v.clone() for k, v in backbone.named_buffers()}
    backbone.train()
    backbone(torch.randn(2, 3, 64, 64))
    assert backbone.training and backbone.network.training
    for key, value in backbone.named_buffers():
        assert torch.equal(value, before[key])
    backbone = build()
    backbone.train()
    backbone(torch.randn(2, 3, 64, 64))
    assert any(not torch.equal(value, before[key])
               for key, value in backbone.named_buffers())
