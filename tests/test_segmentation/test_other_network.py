"""Masks of another network than that in training."""
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.models import MobileNetV2, ResNet

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.segmentation import NetworkMasks
from cyborgs_plugin.segmentation.round_origin import RoundOrigin

from ..helpers import IMAGENET, images_of, trained

OTHER = dict(type='ResNet', depth=18)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmpretrain')


@pytest.fixture
def file(tmp_path):
    torch.save(trained(18).state_dict(), tmp_path / 'other.pth')
    return str(tmp_path / 'other.pth')


def config(file, **options):
    return dict(
        type='NetworkMasks', layer='layer2.1', num_clusters=4, backbone=OTHER,
        checkpoint=file, **options)


def make(photo_root, out, file, origin=None, config_in_use=None):
    """Round 0 with MobileNetV2 in training, on pictures."""
    torch.manual_seed(0)
    model = SimpleNamespace(
        backbone=MobileNetV2(), data_preprocessor=IMAGENET)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    cfg = config(file)
    held = origin or RoundOrigin.of_config(0, cfg, 0, 0)
    source = held.build('x.pth', config_in_use or cfg)
    held.prepare(source, model)
    images = images_of(photo_root)
    held.make(source, images, str(out), 0, 4)
    assert all(torch.equal(value, before[key])
               for key, value in model.backbone.state_dict().items())
    return held, MaskBank.open(str(out / 'round_0000'))


def test_they_are_its_own(photo_root, file, tmp_path):
    _, bank = make(photo_root, tmp_path / 'masks', file)
    model = SimpleNamespace(backbone=trained(18), data_preprocessor=IMAGENET)
    cfg = dict(config(None))
    del cfg['backbone'], cfg['checkpoint']
    held = RoundOrigin.of_config(0, cfg, 0, 0)
    source = held.build('x.pth')
    held.prepare(source, model)
    held.make(source, images_of(photo_root), str(tmp_path / 'own'), 0, 4)
    own = MaskBank.open(str(tmp_path / 'own' / 'round_0000'))
    for key in own.keys():
        np.testing.assert_array_equal(bank.label_map(key), own.label_map(key))


def test_told_by_the_content_of_the_file(photo_root, file, tmp_path):
    _, first = make(photo_root, tmp_path / 'a', file)
    shutil.copy(file, tmp_path / 'moved.pth')
    _, moved = make(photo_root, tmp_path / 'b', str(tmp_path / 'moved.pth'))
    torch.save(trained(18, seed=1).state_dict(), tmp_path / 'new.pth')
    _, new = make(photo_root, tmp_path / 'c', str(tmp_path / 'new.pth'))
    assert first.manifest['network'] == moved.manifest['network']
    assert first.manifest['network'] != new.manifest['network']
    assert first.manifest['source']['backbone'] == OTHER


def test_made_again_without_the_file(photo_root, file, tmp_path):
    held, first = make(photo_root, tmp_path / 'a', file)
    again = RoundOrigin.of_checkpoint(dict(vars(held)), 'x.pth')
    (tmp_path / 'other.pth').unlink()
    _, second = make(photo_root, tmp_path / 'b', file, again)
    assert second.hash == first.hash


def test_a_checkpoint_names_no_network_that_the_config_does_not(
        photo_root, file, tmp_path):
    held = RoundOrigin.of_config(0, config(file), 0, 0)
    held.source['backbone'] = dict(type='os.system', command='true')
    with pytest.raises(UserError, match='x.pth: mask_origin.source.backbone'):
        held.build('x.pth', config(file))
    with pytest.raises(UserError, match='another network'):
        RoundOrigin.of_config(0, config(file), 0, 0).build('x.pth')


def test_a_bright_square_is_a_region_where_it_is(tmp_path, file):
    source = NetworkMasks(
        'layer1.1', 2, backbone=OTHER, checkpoint=file, smooth=0, reflect=32)
    source.prepare(source.network(ResNet(34)), IMAGENET)
    image = np.full((128, 128, 3), 40, np.uint8)
    image[32:64, 64:112] = 250
    labels, = source.label_maps([image], ['a'], [0, 0, 0])
    side = labels.shape[0]
    assert labels.shape == (side, side)
    square = np.zeros((side, side), bool)
    rows, cols = (slice(lo * side // 128, hi * side // 128)
                  for lo, hi in ((32, 64), (64, 112)))
    square[rows, cols] = True
    inside = labels == np.bincount(labels[square]).argmax()
    overlap = (inside & square).sum() / (inside | square).sum()
    assert overlap > 0.6


@pytest.mark.parametrize('options, message', [
    (dict(backbone=OTHER), 'checkpoint must be'),
    (dict(backbone=dict(OTHER, init_cfg=dict(type='Pretrained')),
          checkpoint='x.pth'), 'names their file'),
    (dict(backbone=dict(type='TIMMBackbone', pretrained=True),
          checkpoint='x.pth'), 'names their file'),
])
def test_weights_come_from_a_file(options, message):
    with pytest.raises(UserError, match=message):
        NetworkMasks(**options)
