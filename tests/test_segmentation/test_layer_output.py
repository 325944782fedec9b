"""Any layer's output as maps, for images of any size."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cyborgs_plugin.segmentation.layer_output import LayerError, LayerOutput


class Toy(nn.Module):
    """A stem that gives NCHW maps at a stride of 4, and a layer."""

    def __init__(self, layer, stem=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem = stem or nn.Conv2d(3, 10, 4, stride=4, padding=2)
        self.layer = layer
        self.after = nn.Linear(1, 1)  # never called

    def forward(self, x):
        self.layer(self.stem(x))
        raise AssertionError('goes on behind the layer')


class Made(nn.Module):
    """A layer that gives what a function makes."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Focus(nn.Module):
    """As the stem of YOLOX: a convolution of the four shifted halves."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(12, 10, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(torch.cat([
            x[..., row::2, col::2] for row in (0, 1) for col in (0, 1)], 1))


def with_class_tokens(x):
    tokens = x.flatten(2).transpose(1, 2)
    return torch.cat([tokens.new_ones(len(x), 2, x.shape[1]), tokens], dim=1)


def outputs(network, size, batch=2):
    torch.manual_seed(1)
    images = torch.rand(batch, 3, *size)
    return images, LayerOutput(network, 'layer')(network, images)


@pytest.mark.parametrize('function', [
    lambda x: x,
    lambda x: x.permute(0, 2, 3, 1),
    lambda x: x.flatten(2).transpose(1, 2),
    with_class_tokens,
    lambda x: (x.flatten(2).transpose(1, 2), x.shape[2:]),
    lambda x: [x],
], ids=['NCHW', 'NHWC', 'NLC', 'class tokens', 'tuple', 'list'])
@pytest.mark.parametrize('size', [(40, 72), (10, 13), (7, 90), (1, 1)])
@torch.no_grad()
def test_layouts(function, size):
    network = Toy(Made(function), nn.Conv2d(3, 10, 5, stride=4, padding=2))
    images, maps = outputs(network, size)
    assert maps.shape == (2, 10, -(-size[0] // 4), -(-size[1] // 4))
    assert torch.equal(maps, network.stem(images))


def patches():
    return nn.Conv2d(3, 10, 4, stride=4)


@pytest.mark.parametrize('stem, multiple', [
    (patches, 4), (Focus, 4),
    (lambda: nn.Sequential(patches(), nn.PixelShuffle(1), Made(
        lambda x: x.unflatten(2, (-1, 16)).unflatten(4, (-1, 16))
        .flatten(4).flatten(2, 3))), 64)], ids=['patches', 'focus', 'windows'])
@pytest.mark.parametrize('size', [(40, 72), (41, 70), (3, 5), (130, 67)])
@torch.no_grad()
def test_mirrors_up_to_a_size_that_fits(stem, multiple, size):
    network = Toy(nn.Identity(), stem())
    output = LayerOutput(network, 'layer')
    assert output.multiple == multiple
    images = torch.rand(2, 3, *size)
    padded = torch.from_numpy(np.pad(
        images.numpy(),
        [(0, 0), (0, 0), *((0, -side % multiple) for side in size)],
        mode='reflect'))
    expected = network.stem(padded)[
        :, :, :-(-size[0] // 4), :-(-size[1] // 4)]
    assert torch.equal(output(network, images), expected)


@torch.no_grad()
def test_convolutions_without_padding_stay_as_they_are():
    network = Toy(nn.Identity(), nn.Conv2d(3, 10, 7, stride=4))
    images, maps = outputs(network, (41, 70))
    assert torch.equal(maps, network.stem(images))
    # One that is smaller than the kernel is mirrored.
    assert outputs(network, (3, 70))[1].shape[2] == 1


@pytest.mark.parametrize('function, seen', [
    (lambda x: [x, x[:, :, ::2]], r"list of \['a tensor \(1, 10, "),
    (lambda x: F.adaptive_avg_pool2d(x, 1), r'tensor \(1, 10, 1, 1\)'),
    (lambda x: x.flatten(2).mean(2), r'tensor \(1, 10\)'),
    (lambda x: x.transpose(2, 3), r'tensor \(1, 10, '),
    (lambda x: x.flatten(2), r'tensor \(1, 10, '),
    (lambda x: x.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1),
     r'tensor \(2, 10, '),
    (lambda x: {'x': x}, 'a dict')],
    ids=['list', 'pooled', 'vector', 'transposed', 'NCL', 'windows', 'dict'])
def test_no_map(function, seen):
    network = Toy(Made(function), patches())
    with pytest.raises(LayerError, match='mask_update.source.layer='
                       f"'layer' of the backbone Toy gives no map.*{seen}"):
        LayerOutput(network, 'layer')


def test_layer_that_is_never_called():
    network = Toy(nn.Identity())
    with pytest.raises(AssertionError):
        network(torch.rand(1, 3, 32, 32))
    network.forward = lambda x: network.layer(x)
    with pytest.raises(LayerError, match="'after' is never called"):
        LayerOutput(network, 'after')


def only(limit):
    """Fails as networks do for images that are not of a size."""

    def check(x):
        assert limit(*x.shape[2:]), f"Input {tuple(x.shape)} doesn't match"
        return x

    return nn.Sequential(Made(check), nn.Conv2d(3, 10, 3, 4, 1))


def test_network_of_one_size():
    network = Toy(nn.Identity(), only(lambda *size: size == (224, 224)))
    with pytest.raises(LayerError, match="(?s)'layer' the backbone Toy takes "
                       "no image.*AssertionError: Input.*dynamic_img_size"):
        LayerOutput(network, 'layer')


def test_failure_names_the_image():
    network = Toy(nn.Identity(), only(lambda height, _: height < 300))
    with pytest.raises(LayerError, match='(?s)Toy fails.*height 301 and width '
                       "40,.*Input.*model.backbone.*long_side") as error:
        outputs(network, (301, 40))
    assert isinstance(error.value.__cause__, AssertionError)


def test_lack_of_memory_is_no_matter_of_size():
    network = Toy(nn.Identity())
    output = LayerOutput(network, 'layer')

    def fail(x):
        raise torch.cuda.OutOfMemoryError('no memory')

    network.forward = fail
    with pytest.raises(torch.cuda.OutOfMemoryError, match='no memory'):
        output(network, torch.rand(1, 3, 32, 32))
