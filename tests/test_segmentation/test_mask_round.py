"""Mask rounds: complete, reproducible, and safe, alone and in parallel."""
import hashlib
import os
import re
import time

import numpy as np
import pytest
import torch

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.mask_bank import list_rounds
from cyborgs_plugin.segmentation import (
    GridMasks,
    MaskRoundError,
    NetworkMasks,
    make_round,
    mask_round,
)
from cyborgs_plugin.segmentation.groups import KeyedGroups
from cyborgs_plugin.segmentation.mask_round import own_cores

from ..helpers import (
    IMAGENET,
    FixedMasks,
    images_of,
    in_processes,
    network,
    network_masks,
    random_maps,
)


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


@pytest.mark.parametrize('bank_format', [1, 2])
def test_groups_are_those_of_the_format(photo_root, tmp_path, bank_format):
    """Format 1: a permutation by the seed, as in the first release."""
    seen, images = [], images_of(photo_root)

    class Watched(GridMasks):

        def label_maps(self, images, keys, seed):
            seen.append((seed, keys))
            return super().label_maps(images, keys, seed)

    bank = make_round(Watched(), images, str(tmp_path / 'm'), 3, 7,
                      group_size=5, bank_format=bank_format)
    assert bank.format_version == bank_format
    keys = [key for key, _ in images]
    if bank_format == 1:
        order = np.random.default_rng([7, 3]).permutation(12).tolist()
    else:
        salt = hashlib.sha256(b'7 3').digest()[:16]
        order = sorted(range(12), key=lambda index: hashlib.blake2b(
            keys[index].encode(), digest_size=16, salt=salt).digest())
    assert seen == [
        ((7, 3, group), [keys[i] for i in order[5 * group:5 * group + 5]])
        for group in range(3)]


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


@pytest.mark.parametrize('photos, broken, most, stops', [
    (6, 1, 0.1, False), (6, 2, 0.1, True), (2, 1, 0.1, False),
    (1, 1, 0.1, True), (2, 2, 0.9, True), (6, 1, 0, True), (1, 1, 1, False)])
def test_one_broken_image_of_few_does_not_stop(photo_root, tmp_path, photos,
                                               broken, most, stops):
    images = images_of(photo_root)[:photos]
    for _, path in images[:broken]:
        with open(path, 'wb'):
            pass
    try:
        make_round(GridMasks(), images, str(tmp_path / 'm'), 0, 0,
                   max_broken=most)
    except MaskRoundError as error:
        assert stops and f'{broken} of the {photos} images' in str(error)
    else:
        assert not stops


def test_a_failure_names_the_image_and_keeps_the_old_round(
        photo_root, tmp_path):
    images, root = images_of(photo_root), str(tmp_path / 'm')
    make_round(network_masks(), images, root, 0, 0)
    source = NetworkMasks(layer='layer2.1')
    broken = network()
    broken.conv1.weight.data.fill_(float('nan'))
    source.prepare(broken, IMAGENET)
    with pytest.raises(MaskRoundError, match='train2017/.*NaN'):
        make_round(source, images, root, 1, 0)
    assert MaskBank.open(root).round == 0
    assert make_round(network_masks(), images, root, 1, 0).round == 1


def test_the_network_in_training_is_untouched(photo_root, tmp_path):
    model = network()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    source = NetworkMasks(layer='layer2.1')
    source.prepare(model, IMAGENET)
    make_round(source, images_of(photo_root), str(tmp_path / 'm'), 0, 0)
    assert model.training and model.bn1.training
    assert all(p.requires_grad for p in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(before[key], value)
    assert not any(m._forward_hooks for m in model.modules())


def test_several_clusterings_and_a_broken_image(photo_root, tmp_path):
    images, root = images_of(photo_root), str(tmp_path / 'm')
    double = [np.stack([ids, ids + 1]) for ids in random_maps(3)]
    (photo_root / 'train2017' / '05.png').write_bytes(b'')
    first = make_round(FixedMasks(double), images, root, 0, 0)
    assert first.num_clusterings == 2
    assert [first.label_map(images[5][0], n).tolist() for n in range(2)] == [
        [[0]], [[0]]]
    np.testing.assert_array_equal(
        first.label_map(images[6][0], 1), double[6][1])
    assert first.manifest['counts']['regions'] == pytest.approx(np.mean(
        [1] + [len(np.unique(m[0])) for m in double[:5] + double[6:]]))
    # From two clusterings to three: the old ones repeat.
    triple = [np.stack([ids] * 3) for ids in random_maps(4)]
    (photo_root / 'train2017' / '06.png').write_bytes(b'')
    second = make_round(FixedMasks(triple), images, root, 1, 0, previous=first,
                        max_broken=0.2)
    for number, old in enumerate((0, 1, 0)):
        np.testing.assert_array_equal(
            second.label_map(images[6][0], number), double[6][old])


def test_only_features_that_are_not_finite_count_as_divergence(
        photo_root, tmp_path):
    images, root = images_of(photo_root), str(tmp_path / 'm')
    source = network_masks()
    source._extractor._backbone.conv1.weight.data.fill_(float('inf'))
    with pytest.raises(MaskRoundError, match=r'train2017/\d+\.png') as error:
        make_round(source, images, root, 0, 0)
    assert error.value.diverged
    with pytest.raises(MaskRoundError) as error:
        make_round(FixedMasks([np.zeros(3, int)] * 12), images, root, 0, 0)
    assert not error.value.diverged


@pytest.mark.slow
@pytest.mark.parametrize('bank_format', [1, 2])
def test_one_two_and_three_processes_make_the_same_masks(
        photo_root, tmp_path, bank_format):
    """With groups that no number of processes divides, and a broken image."""
    (photo_root / 'train2017' / '07.png').write_bytes(b'no image')
    images = images_of(photo_root)

    def make(world_size):
        make_round(
            network_masks(), images, str(tmp_path / str(world_size)), 3, 7,
            group_size=5 if world_size else 4, bank_format=bank_format)

    make(0)
    for world_size in (1, 2, 3):
        codes, logs = in_processes(
            world_size, lambda rank, size=world_size: make(size),
            tmp_path / f'{world_size}.log')
        assert codes == [0] * world_size, logs
    made = [MaskBank(str(tmp_path / str(n) / 'round_0003'), verify=True)
            for n in range(4)]
    for same in (lambda bank: bank.hash, digest):
        first, second, third, fourth = map(same, made)
        assert second == third == fourth
        assert first != second  # other groups


LOOKS = [(b'', 'an empty file'), (b'<!DOCTYPE html><p>404', 'HTML'),
         (b'version https://git-lfs.github.com/spec/v1\n', 'Git LFS')]


def break_photos(photo_root, count):
    """Put what is no image in place of the first pictures."""
    for number in range(count):
        (photo_root / 'train2017' / f'{number:02d}.png').write_bytes(
            LOOKS[number % 3][0])


def test_a_round_that_is_too_broken_is_not_published(photo_root, tmp_path):
    images, root = images_of(photo_root), str(tmp_path / 'm')
    make_round(GridMasks(), images, root, 0, 0)
    break_photos(photo_root, 3)
    with pytest.raises(MaskRoundError) as error:
        make_round(GridMasks(), images, root, 1, 0)
    said = str(error.value)
    assert '3 of the 12 images' in said and 'max_broken=0.1' in said
    assert 'of all 12 at most 1 may be broken' in said
    for number, (_, look) in enumerate(LOOKS):
        assert re.search(rf'{number:02d}.png: .*{look}', said), said
    assert not error.value.diverged and list_rounds(root) == [0]
    bank = make_round(GridMasks(), images, root, 1, 0, max_broken=0.25)
    assert len(bank.manifest['broken_images']) == 3
    break_photos(photo_root, 4)
    with pytest.raises(MaskRoundError, match='4 of the 12'):
        make_round(GridMasks(), images, root, 2, 0, max_broken=0.25)


def test_it_stops_where_it_is_known_to_be_too_broken(photo_root, tmp_path):
    break_photos(photo_root, 12)
    with pytest.raises(MaskRoundError, match='2 of the 2 images'):
        make_round(GridMasks(), images_of(photo_root), str(tmp_path / 'm'), 0,
                   0, group_size=1)


@pytest.mark.slow
@pytest.mark.parametrize('bank_format', [1, 2])
def test_two_ranks_agree_that_it_is_too_broken(photo_root, tmp_path,
                                               bank_format):
    """Neither has more than the limit; both together have."""
    images, root = images_of(photo_root), str(tmp_path / 'm')
    groups = KeyedGroups((key for key, _ in images), 0, 0, 1)
    for index in (np.random.default_rng([0, 0]).permutation(12)[:2]
                  if bank_format == 1 else
                  [groups.members(group)[0] for group in (0, 11)]):
        (photo_root / 'train2017' / f'{index:02d}.png').write_bytes(b'')
    codes, logs = in_processes(
        2, lambda rank: make_round(GridMasks(), images, root, 0, 0,
                                   group_size=1, bank_format=bank_format),
        tmp_path / 'log')
    assert codes == [1, 1] and list_rounds(root) == []
    for log in logs:
        assert '2 of the 12 images' in log and 'an empty file' in log


def test_a_round_leaves_no_memory_of_the_device(photo_root, tmp_path,
                                                monkeypatch):
    freed, publish = [], mask_round.publish_blocks
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: freed.append(1))
    monkeypatch.setattr(
        mask_round, 'publish_blocks',
        lambda *args: freed.append('published') or publish(*args))
    make_round(GridMasks(), images_of(photo_root), str(tmp_path / 'm'), 0, 0)
    assert freed == [1, 'published']


def test_threads_that_decode(monkeypatch):
    """With a GPU the cores of the process have nothing else to do."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: range(24))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert own_cores(16) == 2
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert (own_cores(16), own_cores(8)) == (16, 8)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert own_cores(16) == 6
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '24')
    assert own_cores(16) == 2


@pytest.mark.parametrize('group_size, threads, ahead', [
    (1, 5, 5), (1, 1, 1), (2, 5, 6), (16, 3, 16), (5, 5, 5)])
def test_images_are_decoded_ahead(photo_root, tmp_path, group_size, threads,
                                  ahead):
    """As many groups as keep the threads busy, and no more."""
    images, seen = images_of(photo_root), []
    read, done = [], []

    class Watched(GridMasks):

        def preprocess(self, image):
            read.append(image)
            return image

        def label_maps(self, group, keys, seed):
            # Wait for what is ahead: the threads need no more than a moment.
            expected = min(len(images), len(done) + len(group) + ahead)
            end = time.monotonic() + 20
            while len(read) < expected and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(0.02)
            seen.append(len(read) - expected)
            done.extend(keys)
            return super().label_maps(group, keys, seed)

    make_round(Watched(), images, str(tmp_path / 'm'), 0, 3,
               group_size=group_size, decode_threads=threads)
    assert len(done) == len(images) and set(seen) == {0}


def test_small_groups_keep_the_threads_busy(photo_root, tmp_path,
                                            monkeypatch):
    asked = []
    monkeypatch.setattr(mask_round, 'own_cores',
                        lambda most: asked.append(most) or 2)
    for number, size in enumerate((1, 16, 40)):
        make_round(GridMasks(), images_of(photo_root), str(tmp_path / 'm'),
                   number, 0, group_size=size)
    assert asked == [16, 16, 40]
