"""What a network makes of fixed pictures, against a forward by hand."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmpretrain.models import ResNet, VisionTransformer
from torch import nn

from cyborgs_plugin.evaluation.health_pictures import (
    HealthPictures,
    picture_vectors,
    target_change,
    target_sums,
)
from cyborgs_plugin.models import CYBORGS, FrozenTarget
from cyborgs_plugin.segmentation import make_round

from ..helpers import (
    IMAGENET,
    FixedMasks,
    images_of,
    model_config,
    random_maps,
    write_photo,
)


def trained_model():
    torch.manual_seed(0)
    cfg = model_config()
    cfg.pop('type')
    model = CYBORGS(**cfg)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.train()


def test_vectors_are_those_of_a_plain_forward():
    model = trained_model()
    model.backbone.layer1.eval()  # as of a frozen stage
    pixels = np.random.default_rng(0).integers(
        256, size=(35, 64, 64, 3), dtype=np.uint8)
    maps = np.random.default_rng(1).integers(4, size=(35, 64, 64))
    before = torch.get_rng_state(), {
        name: value.clone() for name, value in model.state_dict().items()}
    found = picture_vectors(model, pixels, maps)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert model.training and not model.backbone.layer1.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[1][name]), name

    model.eval()
    rgb = torch.from_numpy(pixels[:, :, :, ::-1].copy()).float()
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    with torch.no_grad():
        feats = model.backbone(((rgb - mean) / std).permute(0, 3, 1, 2))
        assert torch.allclose(found['image'], feats[-1].mean((2, 3)),
                              atol=1e-5)
        cells = model.neck.cells(torch.from_numpy(maps))
        fused = model.neck.fuse(feats, tuple(cells.shape[1:]))
        regions = []
        for cell, values in zip(cells, fused):
            regions += [values[:, cell == label].mean(1)
                        for label in cell.unique()]
        expected = model.neck.projector((torch.stack(regions), ))[0]
    assert len(found['region']) == len(expected)  # at most 6 of an image
    # within an image in another order
    assert torch.allclose(found['region'].sum(0), expected.sum(0), atol=1e-2)
    nearest = torch.cdist(found['region'], expected).min(1).values
    assert nearest.max() < 1e-3


def test_a_fresh_network_is_seen_by_the_statistics_of_the_pictures():
    torch.manual_seed(0)
    backbone = ResNet(18)
    model = nn.Module()
    model.backbone, model.data_preprocessor = backbone, IMAGENET
    pixels = np.random.default_rng(0).integers(
        256, size=(6, 32, 32, 3), dtype=np.uint8)
    found = picture_vectors(model.train(), pixels, None)['image']
    assert not backbone.bn1.running_mean.any()
    assert backbone.bn1.num_batches_tracked == 0
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    batch = IMAGENET(dict(inputs=rgb, data_samples=None))['inputs']
    with torch.no_grad():  # in training mode
        assert torch.allclose(found, backbone(batch)[-1].mean((2, 3)),
                              atol=1e-5)


@pytest.mark.parametrize('out_type', ['cls_token', 'featmap', 'raw'])
def test_transformers(out_type):
    model = nn.Module()
    model.backbone = VisionTransformer(
        arch=dict(embed_dims=16, num_layers=1, num_heads=2,
                  feedforward_channels=16),
        img_size=32, out_type=out_type)
    model.data_preprocessor = IMAGENET
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    assert picture_vectors(model, pixels, None)['image'].shape == (3, 16)


def test_pictures_and_their_masks_are_cut_alike(photo_root, tmp_path):
    images = images_of(photo_root)
    maps = random_maps(0)
    bank = make_round(FixedMasks(maps), images, str(tmp_path / 'm'), 0, 0)
    open(images[3][1], 'w').close()  # is broken now
    pictures = HealthPictures(images, (16, 24))
    assert len(pictures) == 11
    found = pictures.label_maps(bank)
    assert found.shape == (11, 16, 24)
    # a picture of 48x64: as wide as it is, 43 rows of 48 from the third on
    image = cv2.imread(images[1][1])
    assert image.shape == (48, 64, 3)
    expected = cv2.resize(image[2:45], (24, 16),
                          interpolation=cv2.INTER_AREA)
    assert np.array_equal(pictures.pixels[1], expected)
    rows = [(2 + int((y + 0.5) * 43 / 16)) * 6 // 48 for y in range(16)]
    columns = [int((x + 0.5) * 64 / 24) * 8 // 64 for x in range(24)]
    assert np.array_equal(found[1], maps[1][rows][:, columns])
    other = make_round(FixedMasks(maps), images[:2], str(tmp_path / 'o'), 0, 0)
    assert pictures.label_maps(other) is None
    assert pictures.label_maps(None) is None


def test_contrast_of_pictures(tmp_path):
    write_photo(tmp_path / 'a.png', seed=1)
    same = [(str(n), str(tmp_path / 'a.png')) for n in range(3)]
    assert HealthPictures(same, (8, 8)).contrast == 0
    assert HealthPictures([], (8, 8)).contrast == 0
    write_photo(tmp_path / 'b.png', seed=2)
    both = [('a', str(tmp_path / 'a.png')), ('b', str(tmp_path / 'b.png'))]
    pixels = HealthPictures(both, (8, 8))
    assert pixels.contrast == pytest.approx(
        np.abs(pixels.pixels[0].astype(float) - pixels.pixels[1]).mean() / 2)


def test_whether_the_target_moves():
    online = nn.Linear(2, 3)
    moving = ExponentialMovingAverage(online, momentum=0.5)
    model = nn.ModuleList([online, moving])
    before = target_sums(model)
    assert before.shape == (2, )
    assert target_change(before, target_sums(model)) == 0
    moving.update_parameters(online)
    with torch.no_grad():
        online.bias += 1
    moving.update_parameters(online)
    bias = moving.module.bias.double()
    assert target_change(before, target_sums(model)) == pytest.approx(
        float(abs(bias.sum() - before[1]) / before.norm()))
    assert target_change(before, target_sums(model)) > 0
    assert target_sums(nn.ModuleList([online])) is None
    assert target_sums(SimpleNamespace(
        modules=lambda: [FrozenTarget(online)])) is None
