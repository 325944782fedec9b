"""The loss takes at most half of what four einsums take, for the same."""
import os.path as osp
import runpy

import pytest
import torch

from ..helpers import ROOT

TOOL = runpy.run_path(
    osp.join(ROOT, 'tools', 'benchmarks', 'loss_memory.py'))


def test_peak_is_what_is_held_at_a_time():
    def step():
        first = torch.ones(2**18)  # 1 MiB
        second = torch.ones(2**19)
        del first
        third = torch.ones(2**20)
        del second, third

    assert TOOL['peak_memory'](step) == 6 * 2**20


def test_at_most_half_of_four_einsums():
    """B=16, N=16, rank 7 of 8: forward and backward."""
    ours, theirs = TOOL['compare'](16, 16, 8)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    assert ours[2] <= theirs[2] / 2
    # one matrix of logits is 4 MiB, all targets are 4, predictions 0.25
    assert ours[2] < 12 * 2**20
