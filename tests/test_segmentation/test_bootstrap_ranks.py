"""Mask rounds of several processes, their counts and their agreement."""
import multiprocessing
import os
import re
import socket
import sys
import time
import traceback
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as torch_dist

from cyborgs_plugin.segmentation import (
    GridMasks,
    MaskRoundError,
    MaskSource,
    make_round,
)
from cyborgs_plugin.segmentation.bootstrap import (
    agreement,
    describe_round,
    network_state,
)

from ..helpers import images_of, network, network_masks


def content(bank_path):
    return {path.name: path.read_bytes() for path in Path(bank_path).iterdir()}


def in_processes(world_size, function, log):
    """Run a function in forked processes that talk by gloo."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]

    def child(rank):
        sys.stdout = sys.stderr = open(f'{log}.{rank}', 'w')
        torch.set_num_threads(1)  # the threads of the parent are not here
        cv2.setNumThreads(0)
        try:
            torch_dist.init_process_group(
                'gloo', f'tcp://127.0.0.1:{port}', rank=rank,
                world_size=world_size)
            function(rank)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    children = [
        multiprocessing.get_context('fork').Process(target=child, args=(rank,))
        for rank in range(world_size)
    ]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
    codes = [process.exitcode for process in children]
    for process in children:
        process.kill()
    return codes, [Path(f'{log}.{rank}').read_text()
                   for rank in range(world_size)]


@pytest.mark.slow
def test_one_two_and_three_processes_make_the_same_bytes(
        photo_root, tmp_path):
    """With groups that no number of processes divides, and a broken image."""
    (photo_root / 'train2017' / '07.png').write_bytes(b'no image')
    images = images_of(photo_root)

    def make(world_size):
        make_round(
            network_masks(), images, str(tmp_path / str(world_size)), 3, 7,
            group_size=5 if world_size else 4)

    make(0)
    for world_size in (1, 2, 3):
        codes, logs = in_processes(
            world_size, lambda rank, size=world_size: make(size),
            tmp_path / f'{world_size}.log')
        assert codes == [0] * world_size, logs
    made = [content(tmp_path / str(n) / 'round_0003') for n in range(4)]
    assert made[1] == made[2] == made[3]
    assert made[0] != made[1]  # other groups


@pytest.mark.slow
def test_rounds_share_one_group_that_stays(photo_root, tmp_path,
                                           monkeypatch):
    """torch 2.1 deadlocks where a gloo group is destroyed during a run."""
    images, made = images_of(photo_root), []
    new_group, destroy = torch_dist.new_group, torch_dist.destroy_process_group

    def rounds(rank):
        monkeypatch.setattr(
            torch_dist, 'new_group',
            lambda *a, **k: made.append(0) or new_group(*a, **k))
        monkeypatch.setattr(torch_dist, 'destroy_process_group',
                            lambda *a: made.append('destroyed') or destroy(*a))
        for number in range(3):
            make_round(GridMasks(), images, str(tmp_path / 'm'), number, 0)
        assert made == [0], made

    codes, logs = in_processes(2, rounds, tmp_path / 'log')
    assert codes == [0, 0], logs


class FailsOn(GridMasks):
    """Fails on one rank at once; the others would need a minute."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def label_maps(self, images, keys, seed):
        if torch_dist.get_rank() == self.rank:
            raise RuntimeError(f'rank {self.rank} cannot')
        time.sleep(10)
        return super().label_maps(images, keys, seed)


@pytest.mark.slow
def test_the_others_do_not_work_on_after_a_failure(photo_root, tmp_path):
    images, start = images_of(photo_root), time.monotonic()
    codes, logs = in_processes(
        2, lambda rank: make_round(FailsOn(1), images, str(tmp_path / 'm'),
                                   0, 0, group_size=1), tmp_path / 'log')
    assert codes == [1, 1] and time.monotonic() - start < 30
    for log in logs:
        assert 'On rank 1:\nTraceback' in log and 'rank 1 cannot' in log


class Fixed(MaskSource):
    """Maps as given, one for each key."""

    def __init__(self, maps):
        self.maps = maps
        self.num_clusterings = 1 if maps[0].ndim == 2 else len(maps[0])

    def label_maps(self, images, keys, seed):
        return [self.maps[int(key[-6:-4])] for key in keys]


def random_maps(seed, size=(6, 8), ids=5, num=12):
    random = np.random.default_rng(seed)
    return [random.integers(0, ids, size) for _ in range(num)]


def rand_index_by_pairs(first, second):
    """ARI from its definition on all pairs of pixels (Hubert and Arabie)."""
    a, b = first.ravel(), second.ravel()
    upper = np.triu_indices(a.size, 1)
    same_a = (a[:, None] == a)[upper]
    same_b = (b[:, None] == b)[upper]
    both = (same_a & same_b).sum()
    expected = same_a.sum() * same_b.sum() / same_a.size
    return (both - expected) / ((same_a.sum() + same_b.sum()) / 2 - expected)


def test_agreement_is_the_mean_adjusted_rand_index(photo_root, tmp_path):
    images = images_of(photo_root)
    fine, coarse = random_maps(0), random_maps(1, (3, 4), 3)
    for number in range(0, 12, 2):  # Half of them agree by more than chance.
        coarse[number] = fine[number][::2, ::2]
    banks = [make_round(Fixed(maps), images, str(tmp_path / str(n)), n, 0)
             for n, maps in enumerate((fine, coarse))]
    scores = [
        rand_index_by_pairs(ids, other.repeat(2, 0).repeat(2, 1))
        for ids, other in zip(fine, coarse)
    ]
    assert agreement(*banks) == (pytest.approx(np.mean(scores)), 12)
    assert agreement(banks[1], banks[0])[0] == pytest.approx(np.mean(scores))
    assert agreement(*banks, num_images=4) == (
        pytest.approx(np.mean(scores[::3])), 4)
    assert agreement(banks[0], banks[0]) == (1, 12)
    other = make_round(Fixed(fine), [('new00.jpg', images[0][1])],
                       str(tmp_path / 'other'), 0, 0)
    assert np.isnan(agreement(banks[0], other)[0])


def test_a_round_is_counted_and_described(photo_root, tmp_path):
    images, maps = images_of(photo_root), random_maps(2, ids=9)
    maps[4] = np.zeros((6, 8), int)
    first = make_round(Fixed(maps), images, str(tmp_path / 'm'), 0, 1,
                       group_size=5)
    order = np.random.default_rng([1, 0]).permutation(12)
    largest = [max(maps[i].max() for i in group) + 1
               for group in (order[:5], order[5:10], order[10:])]
    regions = np.mean([len(np.unique(ids)) for ids in maps])
    assert first.manifest['counts'] == dict(
        groups=3, clusters=[min(largest), np.mean(largest), max(largest)],
        regions=pytest.approx(regions))
    second = make_round(Fixed(maps), images, str(tmp_path / 'm'), 1, 1)
    line = describe_round(second, 6., first)
    assert re.fullmatch(
        rf'Mask round 1: 12 images, 0 broken, K 9 to 9 \(mean 9.0\), '
        rf'{regions:.1f} regions an image, 6.0 s \(0.5000 s an image\), '
        r'ARI 1.000 with round 0 \(12 images\), [\d.]+ GB free', line)


def test_several_clusterings_and_a_broken_image(photo_root, tmp_path):
    images, root = images_of(photo_root), str(tmp_path / 'm')
    double = [np.stack([ids, ids + 1]) for ids in random_maps(3)]
    (photo_root / 'train2017' / '05.png').write_bytes(b'')
    first = make_round(Fixed(double), images, root, 0, 0)
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
    second = make_round(Fixed(triple), images, root, 1, 0, previous=first)
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
        make_round(Fixed([np.zeros(3, int)] * 12), images, root, 0, 0)
    assert not error.value.diverged


def test_network_state_is_all_that_the_layer_needs():
    first, second = network(0), network(1)
    state = network_state(first, 'layer2.1')
    assert {name.split('.')[0] for name in state} == {
        'conv1', 'bn1', 'layer1', 'layer2'}
    assert sum(x.numel() for x in state.values()) < 0.1 * sum(
        x.numel() for x in first.state_dict().values())
    second.load_state_dict(state, strict=False)
    assert first.training and not any(
        module._forward_pre_hooks for module in first.modules())
    for model in (first, second):
        model.eval()
    image = torch.rand(1, 3, 40, 56)
    outputs = [model.layer2(model.layer1(model.maxpool(
        model.norm1(model.conv1(image)).relu()))) for model in
        (first, second)]
    assert torch.equal(*outputs)
    assert network_state(network(), None).keys() == network(
        ).state_dict().keys()
