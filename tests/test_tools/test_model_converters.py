"""Backbones out of and into files: exact, and safe with files of others."""
import copyreg
import glob
import os.path as osp
import pickle
import shlex
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from mmpretrain.models import RegNet, ResNet, ResNeXt, SEResNet
from torch import nn

from cyborgs_plugin.transfer.backbone_file import write_backbone
from cyborgs_plugin.transfer.published_weights import _ArraysOnly

from ..helpers import LINEAR, ROOT, checkpoint, published, trained

sys.path.insert(0, osp.join(ROOT, 'tools', 'model_converters'))
import check_backbone  # noqa: E402
import from_published  # noqa: E402
import publish_backbone  # noqa: E402
import to_detectron2  # noqa: E402
import to_timm  # noqa: E402
import to_torchvision  # noqa: E402

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.manual_seed(1))


def features(network):
    with torch.no_grad():
        return network(IMAGES)[-1]


@pytest.mark.parametrize('network', ['online', 'target'])
def test_publish(tmp_path, network, call):
    networks = checkpoint(tmp_path / 'epoch_3.pth')
    said = call(publish_backbone, tmp_path / 'epoch_3.pth', '--network',
                network)
    assert "prefix='resnet18.'" in said
    file, = glob.glob(str(tmp_path / '*backbone-????????.pth'))
    content = torch.load(file, weights_only=True)
    meta = content['meta']
    assert (meta['network'], meta['epoch'], meta['iter'], meta['seed'],
            meta['mask_round'], meta['arch'], meta['config']) == (
                network, 3, 9, 5, 2, 'resnet18', 'model = dict()')
    wanted = networks[network].state_dict()
    assert set(content['state_dict']) == set(wanted) | {
        f'resnet18.{key}' for key in wanted
    }
    for key, value in wanted.items():
        for name in (key, f'resnet18.{key}'):
            assert torch.equal(content['state_dict'][name], value)
    # the second names cost no space
    plain = tmp_path / 'plain.pth'
    torch.save(wanted, plain)
    assert osp.getsize(file) < 1.1 * osp.getsize(plain)
    from safetensors.torch import load_file
    tensors, = glob.glob(str(tmp_path / '*backbone-????????.safetensors'))
    tensors = load_file(tensors)
    assert set(tensors) == set(wanted)
    assert all(torch.equal(tensors[k], wanted[k]) for k in wanted)


def test_published_twice_is_the_same_file(tmp_path, call):
    checkpoint(tmp_path / 'epoch_3.pth')
    for _ in range(2):
        call(publish_backbone, tmp_path / 'epoch_3.pth')
    names = glob.glob(str(tmp_path / '*backbone-????????.*'))
    assert sorted(name.split('.')[-1] for name in names) == [
        'pth', 'safetensors'
    ]


def test_who_may_read_a_checkpoint_may_read_what_is_made_of_it(
        tmp_path, call):
    checkpoint(tmp_path / 'epoch_3.pth')
    published = call(
        publish_backbone, tmp_path / 'epoch_3.pth').splitlines()[-1]
    call(to_timm, published)
    files = [*tmp_path.iterdir()]
    assert len(files) == 4
    assert len({file.stat().st_mode for file in files}) == 1, files


def test_files_of_the_current_folder(tmp_path, call, monkeypatch):
    """Their names have no folder; and the last line is what was written."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / 'epoch_3.pth')
    published = call(publish_backbone, 'epoch_3.pth').splitlines()[-1]
    assert (tmp_path / published).is_file()
    torch.save(
        dict(state_dict={
            f'net.{key}': value
            for key, value in trained(18).state_dict().items()
        }), tmp_path / 'theirs.pth')
    for tool, name in ((to_torchvision, published), (to_timm, published),
                       (to_detectron2, published),
                       (from_published, 'theirs.pth')):
        before = set(tmp_path.iterdir())
        call(tool, name)
        assert set(tmp_path.iterdir()) > before


def test_the_printed_options_start_from_the_file(tmp_path, call):
    folder = tmp_path / "it's here"
    folder.mkdir()
    checkpoint(folder / 'epoch_3.pth')
    said = call(publish_backbone, folder / 'epoch_3.pth').splitlines()
    words = shlex.split(said[-2])
    assert words[0] == '--cfg-options'
    options = dict(word.split('=', 1) for word in words[1:])
    assert options == {
        'model.backbone.init_cfg.type': 'Pretrained',
        'model.backbone.init_cfg.checkpoint': said[-1],
        'model.backbone.init_cfg.prefix': 'resnet18.'
    }


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_torchvision_and_timm_give_the_same_features(tmp_path, depth, suffix,
                                                     call):
    source = published(tmp_path, depth, call)
    if suffix == 'safetensors':
        source, = glob.glob(str(tmp_path / '*.safetensors'))
    expected = features(trained(depth))
    call(to_torchvision, source, '--out-dir', tmp_path / 'out')
    call(to_timm, source, '--out-dir', tmp_path / 'out')

    file, = glob.glob(str(tmp_path / 'out' / '*_torchvision-*.pth'))
    model = torchvision.models.get_model(f'resnet{depth}')
    missing, superfluous = model.load_state_dict(
        torch.load(file, weights_only=True), strict=False)
    assert set(missing) == {'fc.weight', 'fc.bias'} and not superfluous
    body = nn.Sequential(*list(model.eval().children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(
            body(IMAGES), expected, rtol=1e-5, atol=1e-5)

    file, = glob.glob(str(tmp_path / 'out' / '*_timm-*.safetensors'))
    model = timm.create_model(
        f'resnet{depth}', num_classes=0, checkpoint_path=file).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_features(IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_differing_features_are_not_written(tmp_path, call, monkeypatch):
    source = published(tmp_path, 18, call)
    real = torchvision.models.get_model

    def other_stride(name):
        model = real(name)
        model.layer4[0].conv1.dilation = (2, 2)
        model.layer4[0].conv1.padding = (2, 2)
        return model

    monkeypatch.setattr(torchvision.models, 'get_model', other_stride)
    with pytest.raises(SystemExit, match='features in torchvision differ'):
        call(to_torchvision, source)
    assert not glob.glob(str(tmp_path / '*torchvision*'))


class D2Conv(nn.Conv2d):
    """A convolution that holds its norm, as detectron2's does."""

    def __init__(self, ins, outs, size, stride=1):
        super().__init__(ins, outs, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outs)

    def forward(self, x):
        return self.norm(super().forward(x))


class D2Bottleneck(nn.Module):

    def __init__(self, ins, mid, stride):
        super().__init__()
        self.shortcut = D2Conv(ins, 4 * mid, 1, stride) if (
            ins != 4 * mid) else None
        self.conv1 = D2Conv(ins, mid, 1)
        self.conv2 = D2Conv(mid, mid, 3, stride)
        self.conv3 = D2Conv(mid, 4 * mid, 1)

    def forward(self, x):
        out = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        return (out + (self.shortcut(x) if self.shortcut else x)).relu()


class D2Stem(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv1 = D2Conv(3, 64, 7, 2)

    def forward(self, x):
        return nn.functional.max_pool2d(self.conv1(x).relu(), 3, 2, 1)


class D2ResNet50(nn.Module):
    """The modules of detectron2's ResNet-50, by its documented names."""

    def __init__(self):
        super().__init__()
        self.stem, ins = D2Stem(), 64
        for stage, (mid, count) in enumerate(
            [(64, 3), (128, 4), (256, 6), (512, 3)], 2):
            blocks = []
            for number in range(count):
                stride = 2 if stage > 2 and number == 0 else 1
                blocks.append(D2Bottleneck(ins, mid, stride))
                ins = 4 * mid
            setattr(self, f'res{stage}', nn.Sequential(*blocks))

    def forward(self, x):
        x = self.stem(x)
        for stage in range(2, 6):
            x = getattr(self, f'res{stage}')(x)
        return (x, )


@pytest.mark.parametrize('model', ['fpn', 'c4'])
def test_detectron2(tmp_path, model, call):
    source = published(tmp_path, 50, call)
    said = call(to_detectron2, source, '--model', model)
    assert 'FORMAT: RGB' in said and 'STRIDE_IN_1X1: False' in said
    file, = glob.glob(str(tmp_path / '*.pkl'))
    with open(file, 'rb') as stream:
        content = pickle.load(stream, encoding='latin1')
    # so detectron2 takes the names as they are
    assert content['__author__'] and not content['matching_heuristics']
    arrays = content['model']
    assert all(type(value) is np.ndarray for value in arrays.values())
    names = set(arrays)
    if model == 'c4':
        assert 'roi_heads.res5.0.shortcut.norm.running_var' in names
        arrays = {
            key.replace('roi_heads.', 'backbone.'): value
            for key, value in arrays.items()
        }
    prefix = 'backbone.' if model == 'c4' else 'backbone.bottom_up.'
    assert all(key.startswith(prefix) for key in arrays)
    network = D2ResNet50()
    missing, superfluous = network.load_state_dict(
        {
            key[len(prefix):]: torch.from_numpy(value)
            for key, value in arrays.items()
        },
        strict=False)
    assert not superfluous
    assert all(key.endswith('num_batches_tracked') for key in missing)
    torch.testing.assert_close(
        features(network.eval()),
        features(trained(50)),
        rtol=1e-5,
        atol=1e-5)


def test_the_pixels_travel_along(tmp_path, call):
    """Whoever loads the file elsewhere learns what it was trained with."""
    made = dict(source='x', mean=[1., 2., 3.], std=[4., 5., 6.], to_rgb=False)
    source, _ = write_backbone(
        trained(18).state_dict(), made, str(tmp_path), 'x-backbone')
    for tool in (to_torchvision, to_timm):
        assert ('BGR pixels of 0 to 255, normalised with mean [1.0, 2.0, 3.0] '
                'and standard deviation [4.0, 5.0, 6.0]') in call(tool, source)
    said = call(to_detectron2, source)
    assert 'FORMAT: BGR' in said and 'PIXEL_MEAN: [1.0, 2.0, 3.0]' in said
    assert 'PIXEL_STD: [4.0, 5.0, 6.0]' in said


def test_detectron2_name_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match='stem'):
        to_detectron2.detectron2_name('stem.0.weight')


def imported(folder, call, *arguments):
    call(from_published, *arguments, '--out-dir', folder / 'out')
    file, = glob.glob(str(folder / 'out' / '*.pth'))
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('prefix', ['net.', 'module.net.'])
@pytest.mark.parametrize('network', ['online', 'target'])
def test_the_authors_checkpoint(tmp_path, prefix, network, call):
    """Names of torchvision's ResNet-50 beside those of both encoders."""
    start = prefix[:-len('net.')]
    torch.manual_seed(0)
    online = torchvision.models.resnet50()
    target = torchvision.models.resnet50()
    state = {}
    for key, value in online.state_dict().items():
        state[f'{prefix}{key}'] = state[
            f'{start}online_encoder.net.{key}'] = value
    for key, value in target.state_dict().items():
        state[f'{start}target_encoder.net.{key}'] = value
    for part in ('online_encoder.projector', 'target_encoder.projector',
                 'online_predictor'):
        state[f'{start}{part}.net.0.weight'] = torch.ones(4, 4)
    torch.save(
        dict(state_dict=state, optimizer=dict(lr=0.2), epoch=800),
        tmp_path / 'frozen_800.pth')
    content = imported(tmp_path, call, tmp_path / 'frozen_800.pth',
                       '--network', network)
    network = ResNet(50)
    network.eval()
    network.load_state_dict(
        {
            key[len('resnet50.'):]: value
            for key, value in content['state_dict'].items()
            if key.startswith('resnet50.')
        },
        strict=True)
    other = online if content['meta']['network'] == 'online' else target
    body = nn.Sequential(*list(other.eval().children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(
            features(network), body(IMAGES), rtol=1e-5, atol=1e-5)


def haiku_nest(network):
    """What haiku would hold of the toolbox's network, by haiku's names."""
    params, state = {}, {}

    def conv(name, module):
        params[name] = {'w': module.weight.detach().numpy().transpose(
            2, 3, 1, 0)}

    def norm(name, module):
        shape = (1, 1, 1, -1)
        params[name] = dict(
            scale=module.weight.detach().numpy().reshape(shape),
            offset=module.bias.detach().numpy().reshape(shape))
        for what, value in (('mean', module.running_mean),
                            ('var', module.running_var)):
            value = value.numpy().reshape(shape)
            state[f'{name}/~/{what}_ema'] = dict(
                average=value, hidden=0.1 * value, counter=np.array(7))

    conv('res_net50/~/initial_conv', network.conv1)
    norm('res_net50/~/initial_batchnorm', network.bn1)
    for stage in range(4):
        for number, block in enumerate(
                getattr(network, f'layer{stage + 1}')):
            name = f'res_net50/~/block_group_{stage}/~/block_{number}/~/'
            for layer in range(3):
                conv(f'{name}conv_{layer}', getattr(block,
                                                    f'conv{layer + 1}'))
                norm(f'{name}batchnorm_{layer}',
                     getattr(block, f'bn{layer + 1}'))
            if block.downsample is not None:
                conv(f'{name}shortcut_conv', block.downsample[0])
                norm(f'{name}shortcut_batchnorm', block.downsample[1])
    return params, state


@pytest.mark.parametrize('form', ['npy', 'npz', 'two networks'])
def test_detcon(tmp_path, form, call):
    network = trained(50)
    params, state = haiku_nest(network)
    path = tmp_path / 'detcon.npy'
    if form == 'npz':
        path = tmp_path / 'detcon.npz'
        np.savez(
            path, **{
                f'{part}/{module}/{leaf}': array
                for part, nest in (('params', params), ('state', state))
                for module, leaves in nest.items()
                for leaf, array in leaves.items()
            })
    elif form == 'npy':
        np.save(path, dict(params=params, state=state))
    else:
        others = [{
            module: {leaf: 0 * array for leaf, array in leaves.items()}
            for module, leaves in nest.items()
        } for nest in (params, state)]
        np.save(
            path,
            dict(
                online_params=params,
                online_state=state,
                target_params=others[0],
                target_state=others[1]))
    content = imported(tmp_path, call, path)
    for key, value in network.state_dict().items():
        if 'num_batches' not in key:
            assert torch.equal(content['state_dict'][key], value), key


class Canary:

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_code_in_a_pickle_does_not_run(tmp_path, call):
    path, canary = tmp_path / 'x.pth', tmp_path / 'canary'
    checkpoint(path, evil=Canary(canary))
    files = [path, tmp_path / 'y.pth', tmp_path / 'z.npy']
    files[1].write_bytes(pickle.dumps(Canary(canary)))
    np.save(files[2], np.array(dict(w=Canary(canary)), dtype=object))
    for file in files:
        for tool in (publish_backbone, from_published, to_torchvision,
                     to_timm, to_detectron2):
            if file.suffix == '.npy' and tool is not from_published:
                continue
            with pytest.raises(SystemExit, match='refused|truncated'):
                call(tool, file)
            assert not canary.exists()
    with pytest.raises(SystemExit, match='open.*(?s:.*)np.savez'):
        call(from_published, files[2])
    # the canary can sing
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize('name', [
    ('os', 'system'), ('builtins', 'eval'), ('numpy', 'load'),
    ('numpy._core.multiarray', 'set_numeric_ops'),
    ('jax._src.array', '_reconstruct_array')
])
def test_names_that_arrays_do_not_need_are_refused(name):
    with pytest.raises(pickle.UnpicklingError, match=name[1]):
        _ArraysOnly(open(__file__, 'rb')).find_class(*name)


def test_foreign_checkpoints_with_objects_are_refused(tmp_path, call):
    """Also harmless ones: only our own log is passed over."""
    path = tmp_path / 'x.pth'
    checkpoint(path)
    with pytest.raises(SystemExit, match='refused.*state_dict only'):
        call(from_published, path)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_altered_and_truncated_files(tmp_path, suffix, call):
    source = published(tmp_path, 18, call)
    source, = glob.glob(str(tmp_path / f'*-backbone-????????.{suffix}'))
    with open(source, 'rb') as file:
        good = file.read()
    middle = len(good) // 2
    for bad in (good[:middle], good[:middle] + b'\x01' + good[middle + 1:]):
        with open(source, 'wb') as file:
            file.write(bad)
        with pytest.raises(SystemExit, match='truncated or altered'):
            call(to_torchvision, source)
    # without a hash in the name the formats themselves must notice
    other = tmp_path / f'other.{suffix}'
    other.write_bytes(good[:middle])
    with pytest.raises(SystemExit, match='truncated|damaged'):
        call(to_torchvision, other)


def test_damaged_and_unfit_checkpoints(tmp_path, call):
    path = tmp_path / 'x.pth'
    with pytest.raises(SystemExit, match='no such file'):
        call(publish_backbone, path)
    checkpoint(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SystemExit, match='truncated'):
        call(publish_backbone, path)
    torch.save(dict(state_dict={'encoder.x': torch.ones(1)}), path)
    for tool in (publish_backbone, from_published):
        with pytest.raises(SystemExit, match='encoder'):
            call(tool, path)
    with pytest.raises(SystemExit, match='publish_backbone.py'):
        call(to_timm, path)
    np.save(tmp_path / 'x.npy', np.ones(3))
    with pytest.raises(SystemExit, match='weights are many'):
        call(from_published, tmp_path / 'x.npy')
    np.save(tmp_path / 'x.npy', dict(a=np.ones(3)))
    with pytest.raises(SystemExit, match='0 online ResNets'):
        call(from_published, tmp_path / 'x.npy')


@pytest.mark.parametrize('spoil, said', [
    (lambda state: state.pop('backbone.layer3.0.bn1.weight'),
     'no whole resnet18'),
    (lambda state: state['backbone.conv1.weight'].fill_(float('nan')),
     'NaN'),
])
def test_incomplete_or_diverged_networks_are_not_published(
        tmp_path, spoil, said, call):
    path = tmp_path / 'x.pth'
    checkpoint(path)
    content = torch.load(path, weights_only=False)
    spoil(content['state_dict'])
    torch.save(content, path)
    with pytest.raises(SystemExit, match=said):
        call(publish_backbone, path)
    assert not glob.glob(str(tmp_path / '*backbone-*'))


def other_network(path, network=None, **tensors):
    """A checkpoint of a backbone that is no ResNet."""
    state = {} if network is None else network.state_dict()
    state.update(tensors)
    torch.save(
        dict(
            state_dict={f'backbone.{k}': v for k, v in state.items()},
            meta=dict(cfg="model = dict(backbone=dict(type='Other'))")), path)
    return state


@pytest.mark.parametrize('make', [
    lambda: None, lambda: ResNeXt(50), lambda: SEResNet(50),
    lambda: ResNet(18, base_channels=16, stem_channels=16),
    lambda: RegNet('regnetx_400mf')
], ids=['patches', 'ResNeXt', 'SEResNet', 'narrow', 'RegNet'])
def test_other_networks_are_published_behind_backbone(tmp_path, make, call):
    """Some have the blocks of a ResNet, and are none."""
    path = tmp_path / 'x.pth'
    state = other_network(path, make(), extra=torch.ones(2))
    said = call(publish_backbone, path)
    assert "prefix='backbone.'" in said
    file, = glob.glob(str(tmp_path / '*backbone-*.pth'))
    content = torch.load(file, weights_only=True)
    assert content['meta']['backbone'] == 'Other'
    assert content['meta']['arch'] is None
    found = content['state_dict']
    assert set(found) == set(state) | {f'backbone.{key}' for key in state}
    for key, value in state.items():
        assert torch.equal(found[key], value)
        assert found[f'backbone.{key}'].data_ptr() == found[key].data_ptr()
    for tool in (to_timm, to_torchvision, to_detectron2):
        with pytest.raises(SystemExit, match='the backbone Other, but only '
                           "ResNets .*prefix='backbone.'"):
            call(tool, file)


def test_other_networks_that_diverged_are_not_published(tmp_path, call):
    path = tmp_path / 'x.pth'
    other_network(path, extra=torch.full((2, ), float('nan')))
    with pytest.raises(SystemExit, match='NaN'):
        call(publish_backbone, path)
    assert not glob.glob(str(tmp_path / '*backbone-*'))


@pytest.mark.parametrize('options, said', [
    (['prefix=backbone.'], "no keys that begin with 'backbone.'.*resnet18"),
    ([], "no keys that begin with 'resnet50.'.*resnet18"),
    (['prefix=target_net.module.0.'], 'target_net.module.0.'),
    (['prefix=resnet18.'], 'layer1.0.conv3.weight.*other shapes'),
    (['checkpoint=nowhere.pth'], 'nowhere.pth does not exist'),
])
def test_check_backbone_stops_what_mmengine_logs(tmp_path, options, said,
                                                 call):
    """A ResNet-18 file into ResNet-50, wrong prefixes."""
    source = published(tmp_path, 18, call)
    init = 'model.backbone.init_cfg.'
    with pytest.raises(SystemExit, match=said):
        call(check_backbone, LINEAR, '--no-data', '--cfg-options',
             f'{init}checkpoint={source}',
             *(init + option for option in options))


def test_check_backbone_passes_what_fits(tmp_path, call):
    source = published(tmp_path, 50, call)
    said = call(check_backbone, LINEAR, '--no-data', '--cfg-options',
                f'model.backbone.init_cfg.checkpoint={source}')
    assert '265 of 265 tensors were loaded' in said
    said = call(check_backbone, LINEAR.replace('cyborgs-pre', 'random'),
                '--no-data')
    assert 'random weights' in said


def test_pickles_by_extension_codes_are_refused(tmp_path, call):
    """copyreg's codes are another way to name a function."""
    copyreg.add_extension('os', 'system', 0x7FFF1)
    try:
        raw = pickle.dumps(dict(w=__import__('os').system), protocol=2)
    finally:
        copyreg.remove_extension('os', 'system', 0x7FFF1)
    path = tmp_path / 'x.npy'
    np.save(path, dict(a=np.ones(1)))
    content = path.read_bytes()
    path.write_bytes(content[:content.index(b'\n') + 1] + raw)
    with pytest.raises(SystemExit, match='refused|damaged'):
        call(from_published, path)
