"""Region functions against naive versions that anyone can read."""
import itertools
import os.path as osp
import runpy
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cyborgs_plugin.models.published import (
    map_slots,
    sample_regions_with_empty,
)
from cyborgs_plugin.models.regions import (
    cell_labels,
    map_regions,
    pool_regions,
    pool_stages,
    sample_regions,
)

from ..helpers import ROOT


def naive_cell_labels(label_maps, grid):
    """One-hot, adaptive average pooling, first maximum."""
    ids = label_maps.long().unique()  # ascending: the lowest wins a tie
    one_hot = (label_maps.long()[:, None] == ids[:, None, None]).double()
    share = F.adaptive_avg_pool2d(one_hot, grid)
    # exact ties differ by rounding of the windows' areas
    return ids[(share * 1e9).round().argmax(dim=1)]


def naive_pool(features, cells, region_ids):
    output = torch.zeros(*region_ids.shape, features.shape[1])
    for b in range(len(features)):
        for n, region in enumerate(region_ids[b].tolist()):
            inside = features[b][:, cells[b] == region]
            if region >= 0 and inside.shape[1]:
                output[b, n] = inside.mean(dim=1)
    return output


@pytest.mark.parametrize('dtype',
                         [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize('size, grid', [((32, 32), (4, 4)), ((24, 40),
                                                             (3, 5)),
                                        ((33, 47), (4, 5)), ((7, 7), (7, 7)),
                                        ((3, 2), (2, 2)), ((2, 2), (3, 4))])
@pytest.mark.parametrize('num_ids', [1, 2, 9, 200])
def test_cell_labels(dtype, size, grid, num_ids):
    num_ids = min(num_ids, torch.iinfo(dtype).max + 1)
    maps = torch.randint(num_ids, (3, *size)).to(dtype)
    expected = naive_cell_labels(maps, grid)
    cells = cell_labels(maps, grid)
    assert cells.dtype == torch.int64
    assert torch.equal(cells, expected)


def test_cell_labels_tie_goes_to_the_lowest():
    maps = torch.tensor([[[7, 3], [3, 7]]])
    assert cell_labels(maps, (1, 1)).item() == 3
    assert cell_labels(255 - maps.to(torch.uint8), (1, 1)).item() == 248


@pytest.mark.needs('torch>=2.3')  # before, torch took no uint16 from numpy
def test_cell_labels_large_ids():
    maps = torch.randint(65000, 65536, (2, 20, 30))
    assert torch.equal(
        cell_labels(maps, (4, 5)), naive_cell_labels(maps, (4, 5)))
    wide = torch.from_numpy(maps.numpy().astype(np.uint16))
    assert torch.equal(cell_labels(wide, (4, 5)), cell_labels(maps, (4, 5)))


def test_cost_does_not_depend_on_the_number_of_ids():
    """Peak memory to the byte; time of the processor, not of the clock."""
    peak_memory = runpy.run_path(
        osp.join(ROOT, 'tools', 'benchmarks',
                 'loss_memory.py'))['peak_memory']
    features = torch.randn(4, 64, 7, 7)
    seconds, peaks = [], []
    for num_ids in (2, 81, 256, 4096):
        maps = torch.randint(num_ids, (4, 224, 224), dtype=torch.int16)

        def step(maps=maps):
            cells = cell_labels(maps, (7, 7))
            pool_regions(features, cells, cells.flatten(1)[:, :16])

        runs = []
        for _ in range(5):
            start = time.process_time()
            step()
            runs.append(time.process_time() - start)
        seconds.append(min(runs))
        peaks.append(peak_memory(step))
    assert len(set(peaks)) == 1, peaks
    # a one-hot expansion grows 2048-fold, and 81 ids as floats are 65 MB
    assert peaks[0] < 8e6
    # few ids are sorted sooner, by several times (docs/differences.md)
    assert max(seconds) < 16 * min(seconds), seconds


@pytest.mark.parametrize('bad', [torch.zeros(1, 4, 4), torch.zeros(4, 4).int()]
                         )
def test_cell_labels_rejects(bad):
    with pytest.raises(ValueError, match='integer tensor'):
        cell_labels(bad, (2, 2))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 300))
def test_pool_regions(seed, num_ids):
    torch.manual_seed(seed)
    features, cells = torch.randn(3, 5, 4, 6), torch.randint(
        num_ids, (3, 4, 6))
    region_ids = torch.randint(-1, num_ids + 2, (3, 7))
    pooled = pool_regions(features, cells, region_ids)
    torch.testing.assert_close(
        pooled, naive_pool(features, cells, region_ids), rtol=1e-6, atol=1e-6)
    # laws: permuting slots, images or ids permutes or changes nothing
    slots, images = torch.randperm(7), torch.randperm(3)
    torch.testing.assert_close(
        pool_regions(features[images], cells[images],
                     region_ids[images][:, slots]), pooled[images][:, slots])
    renamed = torch.randperm(num_ids + 3)
    new_ids = torch.where(region_ids >= 0, renamed[region_ids], -1)
    torch.testing.assert_close(
        pool_regions(features, renamed[cells], new_ids), pooled)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([(1, 1), (2, 1), (3, 4)]))
def test_pool_stages_averages_the_locations_of_a_cell(seed, finer):
    torch.manual_seed(seed)
    cells = torch.randint(5, (3, 4, 6))
    region_ids = torch.randint(-1, 7, (3, 7))
    stages = [torch.randn(3, 5, 4 * finer[0], 6 * finer[1]),
              torch.randn(3, 2, 4, 6)]
    fused = torch.cat([F.avg_pool2d(stages[0], finer), stages[1]], 1)
    found = pool_stages(stages, cells, region_ids)
    torch.testing.assert_close(
        found, naive_pool(fused, cells, region_ids), rtol=1e-6, atol=1e-6)
    last = [stage.contiguous(memory_format=torch.channels_last)
            for stage in stages]
    torch.testing.assert_close(pool_stages(last, cells, region_ids), found)


@pytest.mark.needs('torch>=2.3')  # before, CPUs multiplied no halves
def test_pool_stages_in_half_precision():
    """A sum over 784 locations would be infinite from 84 on."""
    pooled = pool_stages([torch.full((1, 2, 28, 28), 3e4).half()],
                         torch.zeros(1, 7, 7).long(), torch.tensor([[0]]))
    torch.testing.assert_close(pooled, torch.full((1, 1, 2), 3e4).half(),
                               rtol=2e-3, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([2, 5, 60]))
def test_equals_one_hot_average_argmax_einsum(seed, num_ids):
    """The whole way from label map to region vectors, in dense form."""
    torch.manual_seed(seed)
    maps = torch.randint(num_ids, (2, 24, 32))
    features = torch.randn(2, 5, 3, 4)
    share = F.avg_pool2d(F.one_hot(maps, num_ids).movedim(-1, 1).double(), 8)
    # counts are exact here: the window has 2 ** 6 pixels
    cells = F.one_hot(share.argmax(dim=1), num_ids).double()
    dense = torch.einsum('bchw,bhwn->bnc', features.double(), cells)
    dense /= cells.sum((1, 2))[..., None].clamp(min=1)
    region_ids = torch.arange(num_ids).expand(2, -1)
    torch.testing.assert_close(
        pool_regions(features, cell_labels(maps, (3, 4)), region_ids),
        dense.float(),
        rtol=1e-6,
        atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31))
def test_laws_of_cell_labels(seed):
    torch.manual_seed(seed)
    maps = torch.randint(9, (3, 12, 16))
    cells = cell_labels(maps, (3, 4))
    images = torch.randperm(3)
    assert torch.equal(cell_labels(maps[images], (3, 4)), cells[images])
    # names that keep their order keep the winner of a tie
    names = torch.randint(1, 99, (9, )).cumsum(0)
    assert torch.equal(cell_labels(names[maps], (3, 4)), names[cells])
    # without a tie any names do: 2 ids in windows of 9 pixels
    two, names = torch.randint(2, (3, 9, 12)), torch.tensor([7, 3])
    assert torch.equal(
        cell_labels(names[two], (3, 4)), names[cell_labels(two, (3, 4))])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_pool_of_a_crop_is_the_crop_of_the_pool(seed):
    """Cut on the grid before or after reducing the map to cells."""
    torch.manual_seed(seed)
    features, maps = torch.randn(2, 3, 4, 8), torch.randint(5, (2, 32, 64))
    ids = torch.arange(5).expand(2, -1)
    cells = cell_labels(maps, (4, 8))
    top, left = torch.randint(3, (2, )).tolist()
    crop = (..., slice(top, top + 2), slice(left, left + 5))
    cut = maps[:, 8 * top:8 * top + 16, 8 * left:8 * left + 40]
    assert torch.equal(cell_labels(cut, (2, 5)), cells[crop])
    outside = torch.full_like(cells, 99)
    outside[crop] = cells[crop]
    torch.testing.assert_close(
        pool_regions(features[crop], cells[crop], ids),
        pool_regions(features, outside, ids))


def test_unused_slots_are_zero_even_if_a_cell_is_negative():
    cells = torch.full((1, 2, 2), -1)
    pooled = pool_regions(torch.ones(1, 3, 2, 2), cells, torch.tensor([[-1]]))
    assert pooled.abs().sum() == 0


def test_sampling_without_replacement_and_unused_slots():
    cells = torch.tensor([[[4, 4], [9, 1]], [[2, 2], [2, 2]]])
    drawn = sample_regions(cells, 6)
    assert drawn.shape == (2, 6)
    assert sorted(drawn[0].tolist()) == [-1, -1, -1, 1, 4, 9]
    assert sorted(drawn[1].tolist()) == [-1] * 5 + [2]
    assert drawn[0, 3:].eq(-1).all()


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected)**2 / expected).sum()


def test_sampling_is_uniform_over_regions_not_area():
    # region 0 fills 13 of 16 cells, and counts once
    cells = torch.zeros(1, 4, 4, dtype=torch.int64)
    cells[0, 0, :3] = torch.tensor([1, 2, 3])
    generator = torch.Generator().manual_seed(0)
    drawn = sample_regions(cells.expand(20000, 4, 4), 2, generator)
    # each slot: 3 degrees of freedom, p = 0.001
    for slot in drawn.unbind(1):
        assert chi_square(torch.bincount(slot, minlength=4)) < 16.3
    # each ordered pair of different ids: 11 degrees of freedom
    pairs = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16)
    different = [4 * i + j for i, j in itertools.permutations(range(4), 2)]
    assert pairs[different].sum() == 20000
    assert chi_square(pairs[different]) < 31.3, pairs


def test_sampling_is_seeded_and_draws_are_independent():
    cells = torch.randint(40, (4, 7, 7))

    def draw(seed):
        return sample_regions(cells, 8, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    # two draws from one generator: each pair of ids is as likely, 15 d.o.f.
    cells = torch.arange(4).view(1, 2, 2).expand(20000, 2, 2)
    generator = torch.Generator().manual_seed(0)
    one, two = (sample_regions(cells, 1, generator) for _ in range(2))
    pairs = torch.bincount((4 * one + two).flatten(), minlength=16)
    assert chi_square(pairs) < 37.7, pairs


def test_published_sampling_puts_empty_regions_last():
    cells = torch.tensor([[[4, 4], [9, 1]]])
    drawn = sample_regions_with_empty(cells, 16, 81)
    assert set(drawn[0, :3].tolist()) == {1, 4, 9}
    assert len(set(drawn[0].tolist())) == 16 and drawn.min() >= 0


def test_map_regions_leaves_unused_slots_out():
    regions, used = torch.randn(2, 3, 4), torch.tensor([[1, 0, 1], [1, 1, 0]])
    seen = []

    def double(x):
        seen.append(len(x))
        return 2 * x

    mapped = map_regions(double, regions, used.bool())
    assert seen == [4]
    torch.testing.assert_close(mapped, 2 * regions * used[..., None])


def test_published_slots_are_mapped_one_by_one():
    regions, seen = torch.randn(2, 3, 4), []

    def double(x):
        seen.append(len(x))
        return 2 * x

    torch.testing.assert_close(map_slots(double, regions), 2 * regions)
    assert seen == [2, 2, 2]


@pytest.mark.parametrize('num_used', [0, 1])
def test_map_regions_degenerate_batch_reaches_the_parameters(num_used):
    linear = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5))
    used = torch.zeros(1, 3, dtype=torch.bool)
    used[0, :num_used] = True
    mapped = map_regions(linear, torch.randn(1, 3, 4), used)
    assert mapped[~used].abs().sum() == 0
    mapped.sum().backward()
    assert all(p.grad is not None for p in linear.parameters())
