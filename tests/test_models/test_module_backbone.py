"""Any module as a backbone."""
import copy
import pickle
import sys

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from cyborgs_plugin import factories
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.segmentation.layer_choice import choose_layer

from ..own_network import OwnNetwork
from ..test_segmentation.test_every_backbone import check

OWN = 'tests.own_network:OwnNetwork'
OUTPUTS = ['middle', 'last']


def build(factory=OWN, outputs=OUTPUTS, **more):
    torch.manual_seed(0)
    return MODELS.build(dict(
        type='ModuleBackbone', factory=factory, outputs=outputs, **more))


def test_outputs_are_those_of_the_plain_network():
    backbone, images = build(), torch.randn(2, 3, 64, 96)
    torch.manual_seed(0)
    network = OwnNetwork()
    middle = network.middle(network.stem(images))
    found = backbone(images)
    for ours, theirs in zip(found, (middle, network.last(middle))):
        assert torch.equal(ours, theirs)
    assert [tuple(one.shape) for one in found] == [
        (2, 16, 8, 12), (2, 32, 4, 6)]
    found[1].sum().backward()
    lacking = [name for name, value in backbone.network.named_parameters()
               if value.grad is None]
    assert lacking == ['head.weight', 'head.bias']  # it is not run


def test_copies_have_nothing_in_common():
    backbone = build()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(backbone)))
    for value in twin.parameters():
        nn.init.zeros_(value)
    images = torch.randn(2, 3, 64, 64)
    assert twin(images)[1].abs().sum() == 0 < backbone(images)[1].abs().sum()
    assert not any(module._forward_hooks for module in backbone.modules())


def test_masks_are_made_of_its_stage_of_stride_8():
    backbone = build()
    assert choose_layer(backbone) == 'network.middle'
    check(backbone, 'network.middle', 8, 16)
    check(backbone, 'network.last', 16, 32)  # also the last output


def test_a_network_of_torchvision():
    pytest.importorskip('torchvision')
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor
    backbone = build('torchvision.models:resnet18',
                     ['layer2', 'layer3', 'layer4'],
                     factory_args=dict(num_classes=7))
    assert backbone.network.fc.out_features == 7
    torch.manual_seed(0)
    traced = create_feature_extractor(
        resnet18(num_classes=7), ['layer2', 'layer3', 'layer4'])
    images = torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(backbone(images), traced(images).values()):
        assert torch.equal(ours, theirs)
    assert choose_layer(backbone) == 'network.layer2'


class Several(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv, self.unused = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.pair = Pair()

    def forward(self, images):
        return self.pair(self.conv(images))


class Pair(nn.Module):

    def forward(self, maps):
        return maps, maps




@pytest.mark.parametrize('factory, outputs, said', [
    ('own_network', OUTPUTS, "expected 'package.module:function'"),
    ('no_such_module:make', OUTPUTS, 'no module no_such_module.*PYTHONPATH'),
    ('tests.own_network:Own', OUTPUTS, "tests.own_network has no 'Own'"),
    ('builtins:dict', OUTPUTS, 'returns a dict; expected a torch.nn.Module'),
    (OWN, [], 'expected a list of different submodules'),
    (OWN, 'last', 'expected a list of different submodules'),
    (OWN, ['last', 'last'], 'expected a list of different submodules'),
    (OWN, ['middel'], "no submodule 'middel'; the nearest are .'middle'"),
    (factories.HANDED_OVER, OUTPUTS, 'as an object.*resume=True'),
])
def test_mistakes_are_named(factory, outputs, said, monkeypatch):
    monkeypatch.setattr(factories, '_given', [])
    with pytest.raises(UserError, match=said):
        build(factory, outputs)
    with pytest.raises(UserError, match='factory_args=.*stages.*unexpected'):
        build(factory_args=dict(stages=4))


@pytest.mark.parametrize('output, said', [
    ('unused', "the forward of Several never calls 'unused'"),
    ('pair', "'pair' returns a tuple; expected a tensor"),
])
def test_outputs_that_are_no_maps(output, said):
    backbone = build(f'{__name__}:Several', [output])
    with pytest.raises(UserError, match=said):
        backbone(torch.zeros(1, 3, 8, 8))


def test_errors_of_the_network_are_its_own(monkeypatch):
    backbone = build()
    monkeypatch.setattr(backbone.network.stem, 'forward',
                        lambda _: {}['nothing'])
    with pytest.raises(KeyError, match='nothing'):
        backbone(torch.zeros(1, 3, 8, 8))


def test_modules_of_the_current_folder(tmp_path, monkeypatch):
    """A console script does not look there."""
    (tmp_path / 'in_this_folder.py').write_text(
        'from torch import nn\n\ndef make():\n    return nn.Conv2d(3, 4, 1)\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
    assert isinstance(factories.make('in_this_folder:make'), nn.Conv2d)
    assert str(tmp_path) not in sys.path
    (tmp_path / 'imports.py').write_text('import no_such_package')
    with pytest.raises(ModuleNotFoundError, match='no_such_package'):
        factories.make('imports:make')  # theirs, with its traceback


def test_an_object_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(factories, '_given', [])
    network = OwnNetwork()
    factories.hand_over(network)
    backbone = build(factories.HANDED_OVER)
    backbone.init_weights()
    assert backbone.network is not network
    for key, value in network.state_dict().items():
        assert torch.equal(backbone.network.state_dict()[key], value)
