"""Mask rounds: complete, reproducible, and safe."""
import hashlib

import numpy as np
import pytest
import torch

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.segmentation import (
    FelzenszwalbMasks,
    GridMasks,
    MaskRoundError,
    NetworkMasks,
    make_round,
)

from ..helpers import STATISTICS, images_of, network, network_masks


def digest(bank):
    return hashlib.sha256(b''.join(
        bank.label_map(key).tobytes() for key in bank.keys())).hexdigest()


def test_every_image_once_at_stride_8(photo_root, tmp_path):
    images = images_of(photo_root)
    bank = make_round(
        network_masks(), images, str(tmp_path / 'm'), 0, 7, group_size=5)
    assert bank.keys() == sorted(key for key, _ in images)
    for key, path in images:
        height, width = (48, 64) if int(path[-6:-4]) % 3 else (64, 48)
        assert bank.label_map(key).shape == (height // 8, width // 8)
    assert bank.label_map(images[0][0]).dtype == np.uint8
    assert bank.manifest['seed'] == 7 and bank.round == 0


def test_reproducible_and_independent_of_threads(photo_root, tmp_path):
    images = images_of(photo_root)
    made = [
        make_round(
            network_masks(),
            images,
            str(tmp_path / str(number)),
            mask_round,
            seed,
            group_size=5,
            decode_threads=threads) for number, (
                mask_round, seed,
                threads) in enumerate([(0, 1, 1), (0, 1, 3), (1, 1, 1),
                                       (0, 2, 1)])
    ]
    assert made[0].hash == made[1].hash
    assert len({digest(bank) for bank in made}) == 3


def test_k_is_lowered_to_the_smallest_image(photo_root, tmp_path):
    bank = make_round(
        network_masks(num_clusters=256), images_of(photo_root),
        str(tmp_path / 'm'), 0, 0)
    assert max(bank.label_map(key).max() for key in bank.keys()) == 47


def test_broken_image_keeps_its_old_map(photo_root, tmp_path):
    images, root = images_of(photo_root), str(tmp_path / 'm')
    first = make_round(network_masks(), images, root, 0, 0)
    before = first.label_map('train2017/03.png').copy()
    (photo_root / 'train2017' / '03.png').write_bytes(b'')
    second = make_round(network_masks(), images, root, 1, 0, previous=first)
    np.testing.assert_array_equal(
        second.label_map('train2017/03.png'), before)
    assert second.manifest['broken_images'] == ['train2017/03.png']
    third = make_round(network_masks(), images, root, 2, 0)
    assert third.label_map('train2017/03.png').tolist() == [[0]]


def test_a_failure_names_the_image_and_keeps_the_old_round(
        photo_root, tmp_path):
    images, root = images_of(photo_root), str(tmp_path / 'm')
    make_round(network_masks(), images, root, 0, 0)
    source = NetworkMasks(layer='layer2.1')
    broken = network()
    broken.conv1.weight.data.fill_(float('nan'))
    source.prepare(broken, **STATISTICS)
    with pytest.raises(MaskRoundError, match='train2017/.*NaN'):
        make_round(source, images, root, 1, 0)
    assert MaskBank.open(root).round == 0
    assert make_round(network_masks(), images, root, 1, 0).round == 1


def test_the_network_in_training_is_untouched(photo_root, tmp_path):
    model = network()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    source = NetworkMasks(layer='layer2.1')
    source.prepare(model, **STATISTICS)
    make_round(source, images_of(photo_root), str(tmp_path / 'm'), 0, 0)
    assert model.training and model.bn1.training
    assert all(p.requires_grad for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(before[key], value)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize('bad', [0, (5, 2), (1, 2, 3), 70000])
def test_bad_ranges_of_k(bad):
    with pytest.raises(ValueError, match='num_clusters'):
        NetworkMasks(num_clusters=bad)


def test_fixed_sources(photo_root, tmp_path):
    images = images_of(photo_root)
    bank = make_round(GridMasks((2, 2)), images, str(tmp_path / 'g'), 0, 0)
    assert bank.label_map(images[0][0]).tolist() == [[0, 1], [2, 3]]
    bank = make_round(
        FelzenszwalbMasks(min_size=50), images, str(tmp_path / 'f'), 0, 0)
    assert bank.label_map(images[0][0]).shape == (8, 6)


def test_annotated_masks(tmp_path):
    import json

    from cyborgs_plugin.segmentation import AnnotatedMasks
    square = [[0, 0, 16, 0, 16, 16, 0, 16]]
    (tmp_path / 'a.json').write_text(
        json.dumps(
            dict(
                images=[dict(id=1, file_name='x.jpg', height=32, width=48)],
                annotations=[
                    dict(image_id=1, area=256, segmentation=square)
                ])))
    source = AnnotatedMasks(str(tmp_path / 'a.json'), 'train2017/')
    ids, = source.label_maps([], ['train2017/x.jpg'], ())
    expected = np.zeros((4, 6))
    expected[:2, :2] = 1
    np.testing.assert_array_equal(ids, expected)
    with pytest.raises(ValueError, match='other.jpg'):
        source.label_maps([], ['other.jpg'], ())
