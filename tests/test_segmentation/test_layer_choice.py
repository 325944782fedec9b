"""A layer for the masks, where none is named."""
import numpy as np
import pytest
import torch
from mmpretrain.models import MobileNetV2, RegNet, ResNet, VisionTransformer
from mmpretrain.registry import MODELS
from torch import nn

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.segmentation import NetworkMasks
from cyborgs_plugin.segmentation.layer_choice import choose_layer

from ..helpers import IMAGENET, network, write_photo
from .test_every_backbone import check


class Pyramid(nn.Module):
    """Stages of blocks, each behind a convolution of some stride."""

    def __init__(self, strides=(2, 4, 8, 16), wrapped=False):
        super().__init__()
        last, stages, width = 1, [], 3
        for number, stride in enumerate(strides):
            stages.append(nn.Sequential(
                nn.Sequential(nn.Conv2d(width, 8 + number, stride // last,
                                        stride // last), nn.ReLU()),
                nn.Sequential(nn.Conv2d(8 + number, 8 + number, 1))))
            last, width = stride, 8 + number
        body = nn.Module()
        body.stages = nn.ModuleList(stages)
        body.norms = nn.ModuleList(
            nn.BatchNorm2d(8 + i) for i in range(len(strides)))
        body.extra = nn.Parameter(torch.zeros(1))
        self.wrapped = wrapped
        if wrapped:
            self.outer = body
        else:
            self.stages, self.norms = body.stages, body.norms

    def forward(self, x):
        body = self.outer if self.wrapped else self
        for stage, norm in zip(body.stages, body.norms):
            x = stage(x)
            norm(x)


@pytest.mark.parametrize('strides, chosen', [
    ((2, 4, 8, 16), 'stages.2'),
    ((4, 8, 16), 'stages.1'),
    ((8, 16, 32), 'stages.0'),
    ((4, 16, 32), 'stages.1'),  # the finest that is coarser
    ((2, 4), 'stages.1'),  # all are finer
    ((7, 14, 28), 'stages.1'),
])
@pytest.mark.parametrize('wrapped', [False, True])
def test_end_of_the_stage_of_stride_8(strides, chosen, wrapped):
    name = choose_layer(Pyramid(strides, wrapped))
    assert name == ('outer.' if wrapped else '') + chosen


@pytest.mark.parametrize('make, chosen', [
    (lambda: ResNet(18), 'layer2'),
    (lambda: ResNet(50), 'layer2.2'),  # as published
    (lambda: RegNet('regnetx_400mf'), 'layer2'),
    (MobileNetV2, 'layer3'),
    (lambda: VisionTransformer('deit-tiny', out_type='featmap'), 'layers.8'),
])
def test_of_families(make, chosen):
    assert choose_layer(make()) == chosen


@pytest.mark.slow
@pytest.mark.parametrize('config, chosen, stride', [
    (dict(type='ConvNeXt', arch='atto'), 'stages.1', 8),
    (dict(type='SwinTransformer'), 'stages.1', 8),
    (dict(type='VisionTransformer', arch='deit-tiny'), 'layers.8', 16),
    (dict(type='TIMMBackbone', model_name='mobilenetv4_conv_small',
          features_only=True), 'timm_model.blocks.1', 8),
    (dict(type='TIMMBackbone', model_name='eva02_tiny_patch14_224',
          features_only=True, dynamic_img_size=True),
     'timm_model.model.blocks.8', 14),
    (dict(type='TIMMBackbone', model_name='vgg11_bn', features_only=True),
     'timm_model.features_20', 8),
])
def test_maps_of_what_is_chosen(config, chosen, stride):
    """They are where the image is: strides 8, 14, 16, maps and tokens."""
    torch.manual_seed(0)
    model = MODELS.build(config)
    assert choose_layer(model) == chosen
    check(model, chosen, stride)


def test_a_network_without_maps():
    class Global(nn.Module):

        def __init__(self):
            super().__init__()
            self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1))
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(self.mean(x).flatten(1))

    with pytest.raises(UserError, match='layer is not given.*Global'):
        choose_layer(Global())


def test_masks_are_those_of_the_layer_by_name(tmp_path):
    image = write_photo(tmp_path / 'a.png', (64, 80))
    maps = []
    for options in ({}, dict(layer='layer2.1')):
        source = NetworkMasks(num_clusters=5, **options)
        source.prepare(source.network(network()), IMAGENET)
        maps += source.label_maps([image], ['a'], [0, 0, 0])
    assert maps[0].shape == (8, 10) and len(np.unique(maps[0])) == 5
    np.testing.assert_array_equal(*maps)
    source = NetworkMasks()
    source.network(network())
    assert source.layer == 'layer2'  # what a round keeps of the network
