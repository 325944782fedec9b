"""Start files: each common source by our names, or refused."""
import pytest
import timm
import torch
import torchvision
from mmengine.registry import init_default_scope
from mmpretrain.models import MobileNetV2, ResNet
from mmpretrain.registry import MODELS

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.start_file import fit_names, load_start, read_start

from .helpers import trained

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.manual_seed(0))


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmpretrain')


def features(network):
    network.eval()
    with torch.no_grad():
        return network(IMAGES)[-1]


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize('make', [
    lambda one, two: one,  # torchvision, timm, SwAV's and DINO's backbone
    lambda one, two: dict(state_dict=prefixed(one, 'module.')),
    lambda one, two: dict(state_dict=prefixed(one, 'backbone.')),
    lambda one, two: dict(state_dict={
        **prefixed(two, 'module.encoder_k.'),
        **prefixed(one, 'module.encoder_q.'),
        'module.queue': torch.zeros(3)
    }),
    lambda one, two: dict(state_dict={
        **prefixed(two, 'module.momentum_encoder.'),
        **prefixed(one, 'module.base_encoder.')
    }),
    lambda one, two: dict(
        student=prefixed(two, 'module.backbone.'),
        teacher=prefixed(one, 'backbone.'),
        epoch=3),
    lambda one, two: dict(student=prefixed(one, 'module.backbone.')),
    lambda one, two: dict(model=one),
    lambda one, two: dict(state_dict={  # an earlier run
        **prefixed(two, 'target_net.module.0.'),
        **prefixed(one, 'backbone.'),
        'neck.fc.weight': torch.zeros(2)
    }),
    lambda one, two: dict(state_dict={  # a published file
        **one, **prefixed(one, 'resnet18.')}),
    lambda one, two: dict(state_dict={
        key: value for key, value in one.items()
        if not key.endswith('num_batches_tracked')}),
])
def test_the_network_in_a_file(tmp_path, make):
    one, two = trained(18), trained(18, seed=1)
    torch.save(make(one.state_dict(), two.state_dict()), tmp_path / 'f.pth')
    network = ResNet(18)
    load_start(network, str(tmp_path / 'f.pth'))
    assert torch.equal(features(network), features(one))


def test_safetensors(tmp_path):
    from safetensors.torch import save_file
    one, path = trained(18), str(tmp_path / 'f.safetensors')
    save_file(one.state_dict(), path)
    network = ResNet(18)
    load_start(network, path)
    assert torch.equal(features(network), features(one))
    (tmp_path / 'g.safetensors').write_bytes(b'no')
    with pytest.raises(UserError, match='damaged'):
        read_start(str(tmp_path / 'g.safetensors'))


def test_one_of_several_is_named():
    one, two = (trained(18, seed).state_dict() for seed in range(2))
    found = {**prefixed(one, 'a.'), **prefixed(two, 'b.')}
    with pytest.raises(UserError, match=r"f.pth has several .*'a.', 'b.'"):
        fit_names(found, one, 'f.pth')
    state, _ = fit_names(found, one, 'f.pth', prefix='b')
    assert torch.equal(state['conv1.weight'], two['conv1.weight'])
    with pytest.raises(UserError, match='lacks'):
        fit_names(found, one, 'f.pth', prefix='c')


@pytest.mark.parametrize('depth', [18, 50])
def test_torchvision_and_timm_resnets(tmp_path, depth):
    images = IMAGES
    for name, theirs in (
            ('torchvision', getattr(torchvision.models, f'resnet{depth}')()),
            ('timm', timm.create_model(f'resnet{depth}'))):
        theirs.eval()
        torch.save(theirs.state_dict(), tmp_path / f'{name}.pth')
        network = ResNet(depth)
        load_start(network, str(tmp_path / f'{name}.pth'))
        with torch.no_grad():
            stem = theirs.maxpool(
                getattr(theirs, 'act1', None) and theirs.act1(
                    theirs.bn1(theirs.conv1(images))) if name == 'timm' else
                theirs.relu(theirs.bn1(theirs.conv1(images))))
            last = theirs.layer4(theirs.layer3(theirs.layer2(
                theirs.layer1(stem))))
        torch.testing.assert_close(features(network), last)


def test_torchvision_s_mobilenetv2_in_order(tmp_path):
    theirs = torchvision.models.mobilenet_v2()
    theirs.eval()
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / 'f.pth')
    network = MobileNetV2(out_indices=(7, ))
    load_start(network, str(tmp_path / 'f.pth'))
    with torch.no_grad():
        torch.testing.assert_close(
            features(network), theirs.features(IMAGES))


def test_a_wrapper_s_name_is_in_no_file(tmp_path):
    kept = timm.create_model('resnet18')
    torch.save(kept.state_dict(), tmp_path / 'f.pth')
    wrapped = MODELS.build(dict(
        type='TIMMBackbone', model_name='resnet18', features_only=True))
    load_start(wrapped, str(tmp_path / 'f.pth'))
    assert torch.equal(wrapped.timm_model.layer4[1].conv2.weight,
                       kept.layer4[1].conv2.weight)
    whole = dict(
        type='TIMMBackbone', model_name='vit_tiny_patch16_224',
        features_only=True, out_indices=(5, ))
    theirs = timm.create_model('vit_tiny_patch16_224')
    torch.save(theirs.state_dict(), tmp_path / 'vit.pth')
    wrapped = MODELS.build(whole)
    load_start(wrapped, str(tmp_path / 'vit.pth'))
    theirs.eval()
    wrapped.eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            wrapped(images)[0],
            theirs.forward_intermediates(
                images, indices=[5], intermediates_only=True)[0])


def test_another_network_is_refused_by_the_converter_s_name():
    wanted = ResNet(18).state_dict()
    for found, words in (
            (trained(34).state_dict(), 'deeper .*layer1.2'),
            (trained(50).state_dict(), 'other shapes'),
            ({'blocks.0.attn.qkv.weight': torch.zeros(3)}, 'deit3_to'),
            ({'module.features.0.weight': torch.zeros(3)}, 'mobilenetv2_to'),
            ({'stages.0.blocks.0.x': torch.zeros(3)}, 'convnext_to')):
        with pytest.raises(UserError, match=f'f.pth.*{words}'):
            fit_names(found, wanted, 'f.pth')
    # fewer stages are no other network
    three = ResNet(18, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
                   out_indices=(2, )).state_dict()
    assert len(fit_names(trained(18).state_dict(), three, 'f.pth')[0]) == len(
        three)


def test_order_alone_is_not_enough():
    """Tensors of the same shapes but other kinds are not paired."""
    wanted = {'x.bn.weight': torch.zeros(3), 'x.bn.bias': torch.zeros(3)}
    found = {'y.1.bias': torch.zeros(3), 'y.2.weight': torch.ones(3)}
    with pytest.raises(UserError):
        fit_names(found, wanted, 'f.pth')
    found = dict(reversed(found.items()))
    assert fit_names(found, wanted, 'f.pth')[0]['x.bn.weight'].sum() == 3


def test_a_file_without_tensors(tmp_path):
    torch.save(dict(epoch=3), tmp_path / 'f.pth')
    with pytest.raises(UserError, match='no tensors'):
        read_start(str(tmp_path / 'f.pth'))
    with pytest.raises(UserError, match='no such file'):
        read_start(str(tmp_path / 'g.pth'))
