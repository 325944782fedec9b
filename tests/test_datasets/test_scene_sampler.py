"""The order of an epoch, against mmengine's and against plain lists."""
import tracemalloc
from itertools import chain, zip_longest
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import ConcatDataset, DefaultSampler, RepeatDataset
from mmengine.runner import Runner

from cyborgs_plugin.datasets import SceneDataset, SceneSampler
from cyborgs_plugin.datasets.index_making import index_folder, index_shards
from cyborgs_plugin.datasets.scene_sampler import shard_numbers
from cyborgs_plugin.errors import UserError

from .test_shards import pack, picture


class InShards:
    """Images that are said to lie in tar files."""

    def __init__(self, numbers):
        self.shard_numbers = np.asarray(numbers, dtype=np.int32)

    def __len__(self):
        return len(self.shard_numbers)


def sampler_of(kind, rank, world_size, *args, **kwargs):
    with mock.patch('mmengine.dataset.sampler.get_dist_info',
                    lambda: (rank, world_size)):
        return kind(*args, **kwargs)


def orders(data, world_size, epoch=0, streams=None, **kwargs):
    """The images of each process."""
    found = []
    for rank in range(world_size):
        sampler = sampler_of(SceneSampler, rank, world_size, data, seed=3,
                             **kwargs)
        sampler.set_epoch(epoch)
        sampler.streams = streams or world_size
        found.append(list(sampler))
        assert len(found[-1]) == len(sampler)
    return found


def merged(parts):
    return [image for images in zip_longest(*parts) for image in images
            if image is not None]


@pytest.mark.parametrize('count', [1, 2, 7, 1000, 200_000])
@pytest.mark.parametrize('world_size', [1, 3])
@pytest.mark.parametrize('options', [
    {}, dict(shuffle=False), dict(round_up=False),
    dict(shuffle=False, round_up=False)], ids=str)
def test_the_full_shuffle_is_mmengines(count, world_size, options):
    data = range(count)
    for rank in range(world_size):
        ours, theirs = (
            sampler_of(kind, rank, world_size, data, seed=11, **options)
            for kind in (SceneSampler, DefaultSampler))
        for epoch in (0, 5):
            for sampler in (ours, theirs):
                sampler.set_epoch(epoch)
            assert list(ours) == list(theirs)
            assert len(ours) == len(theirs)
        assert ours.settings == {}


def naive_order(numbers, window, streams, seed, epoch):
    """The same law of lists, image by image."""
    files = [[image for image, number in enumerate(numbers) if number == file]
             for file in sorted(set(numbers))]
    order = np.random.default_rng((seed, epoch)).permutation(len(files))
    line = [(place, image) for place, file in enumerate(order)
            for image in files[file]]
    parts = []
    for stream in range(streams):
        # as np.array_split, which would make arrays of the pairs
        part = [line[place] for place in np.array_split(
            np.arange(len(line)), streams)[stream]]
        places = sorted({place for place, _ in part})
        number = -(-len(places) // window)
        part_order = []
        for group in range(number):
            first, last = (each * len(places) // number
                           for each in (group, group + 1))
            images = [image for place, image in part
                      if place in places[first:last]]
            draws = np.random.default_rng(np.random.SeedSequence(
                (seed, epoch), spawn_key=(stream, group)))
            part_order += draws.permutation(images).tolist()
        parts.append(part_order)
    return merged(parts)


CASES = st.tuples(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.integers(1, 8), st.integers(1, 5), st.integers(1, 5),
    st.integers(0, 3))


@settings(deadline=None, max_examples=150)
@given(CASES)
def test_windows_against_plain_lists(case):
    numbers, window, streams, world_size, epoch = case
    found = merged(orders(InShards(numbers), world_size, epoch, streams,
                          window=window, round_up=False))
    assert found == naive_order(numbers, window, streams, 3, epoch)
    # so it is the same for any number of processes
    assert sorted(found) == list(range(len(numbers)))


@settings(deadline=None, max_examples=50)
@given(CASES)
def test_processes_have_the_same_number_of_images(case):
    numbers, window, _, world_size, epoch = case
    parts = orders(InShards(numbers), world_size, epoch, window=window)
    whole = merged(parts)
    count = len(numbers)
    assert len({len(part) for part in parts}) == 1
    assert sorted(whole[:count]) == list(range(count))
    # what fills up is from the beginning, as in DefaultSampler
    assert whole[count:] == list(
        chain.from_iterable([whole[:count]] * world_size))[
            :len(whole) - count]


def test_a_process_reads_from_few_files():
    """20 files, 4 processes: 5 each, or 6 where a border divides one."""
    random = np.random.default_rng(0)
    numbers = np.repeat(np.arange(20), random.integers(50, 150, 20))
    random.shuffle(numbers)
    parts = orders(InShards(numbers), 4, window=2)
    files = [numbers[part] for part in parts]
    assert all(5 <= len(set(each)) <= 7 for each in files)
    for each in files:
        firsts = {file: np.flatnonzero(each == file) for file in set(each)}
        open_at = [sum(places[0] <= step <= places[-1]
                       for places in firsts.values())
                   for step in range(len(each))]
        assert max(open_at) == 2
    assert len({tuple(part) for part in parts}) == 4
    assert parts != orders(InShards(numbers), 4, 1, window=2)
    assert parts == orders(InShards(numbers), 4, window=2)


def test_all_orders_of_a_window_are_equally_likely():
    """And of files: chi squared of the orders of 2 files of 2 images."""
    data = InShards([0, 1, 0, 1])
    for window, expected in ((1, 8), (2, 24)):
        counts = {}
        sampler = SceneSampler(data, seed=7, window=window)
        for epoch in range(2400):
            sampler.set_epoch(epoch)
            order = tuple(sampler)
            counts[order] = counts.get(order, 0) + 1
        assert len(counts) == expected
        mean = 2400 / expected
        chi2 = sum((count - mean)**2 / mean for count in counts.values())
        assert chi2 < expected - 1 + 4 * (2 * (expected - 1))**0.5


def test_bytes_per_image():
    """4 for the table, and those of a window: nothing else of all images."""
    count = 2_000_000
    data = InShards(np.arange(count) % 1000)  # keys mixed over tar files
    tracemalloc.start()
    sampler = SceneSampler(data, seed=0, window=8)
    table = tracemalloc.get_traced_memory()[0]
    images = iter(sampler)
    for _ in range(100_000):  # several windows
        next(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4 * count <= table < 4.1 * count
    assert peak < 4 * count + 80e6  # parts of a million rows are sorted


@pytest.fixture
def tars(tmp_path):
    """An index of 3 tar files, whose keys are mixed."""
    shards = [
        pack(tmp_path / f'{file}.tar',
             [(f'{name}{file}.png', picture(tmp_path, 9)) for name in names])
        for file, names in enumerate(('ad', 'b', 'cef'))]
    path = str(tmp_path / 't.index')
    index_shards(shards, path)
    return path


def test_tar_files_of_data_sets(tars):
    numbers = [0, 1, 2, 0, 2, 2]
    data = SceneDataset(index=tars)
    assert shard_numbers(data).tolist() == numbers
    for indices, expected in ((2, numbers[:2]), (-2, numbers[-2:]),
                              ([4, -6], [2, 0])):
        part = SceneDataset(index=tars, indices=indices)
        assert shard_numbers(part).tolist() == expected
        for number, (_, path) in zip(expected, part.images(), strict=True):
            assert f'/{number}.tar::' in path
    joined = ConcatDataset([data, data])
    assert shard_numbers(joined).tolist() == numbers + [3, 4, 5, 3, 5, 5]
    lazy = SceneDataset(index=tars, lazy_init=True)
    assert shard_numbers(lazy).tolist() == numbers
    loader = Runner.build_dataloader(dict(
        batch_size=2, dataset=data, num_workers=0,
        sampler=dict(type='mmpretrain.SceneSampler', window=2)), seed=4)
    assert sorted(loader.sampler) == list(range(6))


def test_what_it_refuses(tars, photo_root, tmp_path):
    data = SceneDataset(index=tars)
    for window in (0, -1, 1.5, '8', True):
        with pytest.raises(UserError, match='sampler.window must be'):
            SceneSampler(data, window=window)
    with pytest.raises(UserError, match='sampler.shuffle=False keeps'):
        SceneSampler(data, shuffle=False, window=2)
    index_folder(str(photo_root / 'train2017'), str(tmp_path / 'f.index'))
    for folder in (
            SceneDataset(str(photo_root), dict(img_path='train2017/')),
            SceneDataset(index=str(tmp_path / 'f.index'))):
        with pytest.raises(UserError, match='sampler.window.*train2017.* are '
                           'files of their own: leave out window'):
            SceneSampler(folder, window=2)
    with pytest.raises(UserError, match='of type RepeatDataset does not tell'):
        SceneSampler(RepeatDataset(data, 2), window=2)


def test_draws_do_not_depend_on_the_bits():
    """The draws of torch do not depend on the type of the indices."""
    for count in (10, 3_000_000):
        first, second = (
            torch.randperm(count, generator=torch.Generator().manual_seed(1),
                           dtype=dtype)
            for dtype in (torch.int32, torch.int64))
        assert torch.equal(first.long(), second)
