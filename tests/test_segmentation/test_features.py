"""The truncated, fused forward equals the whole network's layer."""
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from mmpretrain.models.backbones import ResNet
from scipy.ndimage import gaussian_filter
from torch import nn

from cyborgs_plugin.segmentation import features
from cyborgs_plugin.segmentation.features import FeatureExtractor

from ..helpers import IMAGENET, whole_forward

extractor_of = partial(FeatureExtractor, data_preprocessor=IMAGENET)


def network(depth=18):
    torch.manual_seed(0)
    model = ResNet(depth)
    model.init_weights()
    for module in model.modules():  # statistics as after some training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    return model


@pytest.mark.parametrize('depth, layer', [(18, 'layer2.1'), (50, 'layer2.2'),
                                          (18, 'layer3')])
def test_equals_the_whole_network(depth, layer):
    model = network(depth)
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (*size, 3), dtype=np.uint8)
        for size in [(40, 64), (33, 50), (40, 64), (3, 2)]
    ]
    found = extractor_of(model, layer)(images)
    for image, feature in zip(images, found):
        expected = whole_forward(model, layer, image)
        assert feature.shape == expected.shape
        torch.testing.assert_close(feature, expected, rtol=0, atol=1e-5)
    assert found[0].shape[:2] == ((5, 8) if layer != 'layer3' else (3, 4))


def test_mirrored_border():
    model = network()
    image = np.random.default_rng(0).integers(
        0, 256, (75, 101, 3), dtype=np.uint8)
    feature, = extractor_of(model, 'layer2.1', reflect=32)([image])
    mirrored = np.pad(image, ((32, 32), (32, 32), (0, 0)), mode='reflect')
    expected = whole_forward(model, 'layer2.1', mirrored)[4:-4, 4:-4]
    torch.testing.assert_close(feature, expected, rtol=0, atol=1e-5)
    assert feature.shape[:2] == (10, 13)


def test_mirrored_border_leaves_no_frame():
    # One colour all over has one feature all over, but for zeros around it.
    image = np.full((96, 96, 3), 40, dtype=np.uint8)
    model = network()
    framed, = extractor_of(model, 'layer2.1')([image])
    # 64 pixels are more than the layer sees on one side
    plain, = extractor_of(model, 'layer2.1', reflect=64)([image])
    assert plain.flatten(0, 1).std(dim=0).max() < 1e-6
    assert framed.flatten(0, 1).std(dim=0).max() > 1e-3


def test_mirrors_an_image_smaller_than_the_border():
    image = np.full((3, 2, 3), 40, dtype=np.uint8)
    feature, = extractor_of(network(), 'layer2.1', reflect=32)([image])
    assert feature.shape[:2] == (1, 1) and torch.isfinite(feature).all()


@pytest.mark.parametrize('reflect', [0, 32])
def test_smooth_is_a_gaussian_over_unit_vectors(reflect):
    image = np.random.default_rng(0).integers(
        0, 256, (120, 160, 3), dtype=np.uint8)
    model = network()
    options = dict(layer='layer2.1', reflect=reflect)
    plain, = extractor_of(model, **options)([image])
    smooth, = extractor_of(model, smooth=12., **options)([image])
    expected = gaussian_filter(  # 12 pixels are 1.5 cells of 8
        plain.numpy(), (1.5, 1.5, 0), mode='mirror', radius=(4, 4, 0))
    expected /= np.linalg.norm(expected, axis=2, keepdims=True)
    np.testing.assert_allclose(smooth.numpy(), expected, rtol=0, atol=1e-5)


def test_smooth_is_in_pixels_at_any_stride():
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    image[:, 64:] = 255
    widths = []
    for layer in ('layer1.1', 'layer2.1'):
        feature, = extractor_of(
            network(), layer, reflect=32, smooth=16)([image])
        row = feature[len(feature) // 2]
        along = (row - row[0]) @ (row[-1] - row[0])
        share = (along / along[-1]).numpy()
        widths.append(((share > 0.16) & (share < 0.84)).mean() * 128)
    # two deviations hold the middle 68 %, and some pixels of the network's
    assert 16 <= widths[0] <= 48
    assert abs(widths[0] - widths[1]) <= 16


def test_smooth_of_an_image_smaller_than_the_gaussian():
    images = [np.full((3, 2, 3), 40, np.uint8), np.zeros((9, 70, 3), np.uint8)]
    small, thin = extractor_of(network(), 'layer2.1', smooth=50.)(images)
    assert small.shape[:2] == (1, 1) and thin.shape[:2] == (2, 9)
    assert all(torch.isfinite(feature).all() for feature in (small, thin))


@pytest.mark.parametrize('long_side, grid', [(240, (15, 30)), (60, (4, 8)),
                                             (120, (8, 15))])
def test_long_side(long_side, grid):
    image = np.random.default_rng(0).integers(
        0, 256, (60, 120, 3), dtype=np.uint8)
    model = network()
    feature, = extractor_of(
        model, 'layer2.1', long_side=long_side)([image])
    assert feature.shape[:2] == grid
    size = (long_side, long_side // 2)
    resized = cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if long_side == 60 else
        cv2.INTER_LINEAR)
    expected, = extractor_of(model, 'layer2.1')([resized])
    assert torch.equal(feature, expected)


def test_max_pixels():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8)
              for size in [(96, 144), (60, 90), (900, 1)]]
    model, limit = network(), 60 * 90
    reduced, *others = extractor_of(
        model, 'layer2.1', max_pixels=limit)(images)
    small = cv2.resize(images[0], (90, 60), interpolation=cv2.INTER_AREA)
    plain = extractor_of(model, 'layer2.1')
    for found, expected in zip([reduced, *others],
                               plain([small, *images[1:]])):
        assert torch.equal(found, expected)
    # the long side comes before it
    both = dict(layer='layer2.1', long_side=144, max_pixels=limit)
    assert torch.equal(extractor_of(model, **both)(images[:1])[0],
                       plain(images[:1])[0])


def test_long_side_of_a_strip_leaves_a_row():
    feature, = extractor_of(network(), 'layer2.1', long_side=64)(
        [np.zeros((2, 5000, 3), np.uint8)])
    assert feature.shape[:2] == (1, 8)


def test_stops_at_the_layer():
    model = network()
    del model.layer4  # never reached
    model.add_module('layer4', torch.nn.Identity())
    calls = []
    extractor = extractor_of(model, 'layer2.1')
    extractor._backbone.layer3.register_forward_hook(
        lambda *args: calls.append(1))
    extractor([np.zeros((32, 32, 3), np.uint8)])
    assert not calls


def test_unknown_layer_names_the_near_ones():
    with pytest.raises(ValueError, match=r"layer2\.1"):
        extractor_of(network(), 'layer2.2')


def test_large_groups_are_split_by_pixels(monkeypatch):
    monkeypatch.setattr(features, '_MAX_PIXELS_CPU', 2 * 32 * 32)
    model, random = network(), np.random.default_rng(1)
    images = list(random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))
    for image, feature in zip(images,
                              extractor_of(model, 'layer2.1')(images)):
        torch.testing.assert_close(
            feature, whole_forward(model, 'layer2.1', image), rtol=0,
            atol=1e-5)


class NormThatActs(nn.BatchNorm2d):
    """As timm's: an activation goes with the norm."""

    def forward(self, x):
        return super().forward(x).relu()


class Net(nn.Module):
    """Two convolutions in the order of ``steps``."""

    def __init__(self, steps, norm=nn.BatchNorm2d):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, 2, 1), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, 2, 1), norm(8)
        self.steps = steps

    def forward(self, x):
        for step in self.steps:
            x = x.relu() if step == 'relu' else getattr(self, step)(x)
        return x


PLAIN = ['conv1', 'norm1', 'relu', 'conv2', 'norm2']


@pytest.mark.parametrize('steps, layer, norm, fused', [
    (PLAIN, 'norm2', nn.BatchNorm2d, True),
    # a fresh norm only scales, and after a ReLU one that acts does not act
    (['conv1', 'relu', 'norm1', 'conv2'], 'conv2', nn.BatchNorm2d, False),
    (['conv1', 'relu', 'norm1', 'conv2'], 'conv2', NormThatActs, False),
    (PLAIN, 'norm2', NormThatActs, False),
    (['conv1', 'conv2', 'norm2'], 'norm2', nn.BatchNorm2d, False),
    (PLAIN, 'conv2', nn.BatchNorm2d, False),  # before its own norm
    (PLAIN, 'norm2', partial(nn.BatchNorm2d, affine=False), False),
    (PLAIN, 'norm2', partial(nn.BatchNorm2d, track_running_stats=False),
     False)])
def test_fuses_where_nothing_changes(steps, layer, norm, fused, monkeypatch):
    lines = []
    monkeypatch.setattr(features, 'print_log',
                        lambda text, logger: lines.append(text))
    model = Net(steps, norm)
    image = np.random.default_rng(0).integers(
        0, 256, (33, 50, 3), dtype=np.uint8)
    state = torch.random.get_rng_state()
    extractor = extractor_of(model, layer)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (extractor._backbone.conv2.bias.abs().sum()
            != model.conv2.bias.abs().sum()) == fused
    feature, = extractor([image])
    expected = whole_forward(model, layer, image)
    torch.testing.assert_close(feature, expected, rtol=0, atol=1e-5)
    assert len(lines) == (not fused)
    assert fused or 'not fused' in lines[0] and repr(layer) in lines[0]


def test_zero_weights_hide_no_branch():
    """Residual branches that begin with 0 are fused, or not, as any other."""

    class Branch(nn.Module):

        def __init__(self, steps):
            super().__init__()
            self.stem, self.branch = nn.Conv2d(3, 8, 3, 1, 1), Net(steps)
            self.branch.conv1 = nn.Conv2d(8, 8, 3, 1, 1)
            self.branch.conv2.stride = 1, 1
            nn.init.zeros_(self.branch.norm2.weight)
            self.layer = nn.Identity()

        def forward(self, x):
            x = self.stem(x)
            return self.layer(x + self.branch(x))

    for steps, fused in ((PLAIN, True), (
            ['conv1', 'relu', 'norm1', 'conv2', 'norm2'], False)):
        extractor = extractor_of(Branch(steps), 'layer')
        assert isinstance(extractor._backbone.branch.norm1,
                          nn.Identity) == fused


def test_weights_of_five_axes():
    """Channels last is a format of four axes only."""

    class Lambda(nn.Module):

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1)
            self.deep = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))

        def forward(self, x):
            return self.deep(self.conv(x).unsqueeze(2)).squeeze(2)

    model, image = Lambda(), np.full((32, 48, 3), 9, dtype=np.uint8)
    feature, = extractor_of(model, 'conv')([image])
    torch.testing.assert_close(
        feature, whole_forward(model, 'conv', image), rtol=0, atol=1e-5)


def test_features_do_not_depend_on_what_cudnn_tries_out(monkeypatch):
    """The step's cudnn_benchmark is off meanwhile, and on again after."""
    cudnn, seen = torch.backends.cudnn, []
    monkeypatch.setattr(cudnn, 'benchmark', True)
    extractor = FeatureExtractor(network(), 'layer1.0', IMAGENET)
    extractor._backbone.layer1.register_forward_pre_hook(
        lambda *_: seen.append((cudnn.benchmark, cudnn.deterministic)))
    extractor([np.zeros((64, 64, 3), np.uint8)])
    assert seen == [(False, True)]
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
