"""The measure of a held view's cost."""
import os.path as osp
import re
import sys

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import device_views  # noqa: E402


def test_it_prints_times_and_the_ratio(photo_root, call):
    told = call(device_views, '--data-root', photo_root / 'train2017',
                '--images', 3, '--rounds', 1, '--batched')
    lines = told.splitlines()[-3:]
    found = [
        re.fullmatch(
            rf'{size} pixels, 3 photographs, ms per view: f15b0f3 ([\d.]+), '
            r'held ([\d.]+), batched ([\d.]+); ratio ([\d.]+)', line)
        for size, line in zip((224, 96), lines)
    ]
    assert all(found), told
    for line in found:
        assert float(line[4]) < 0.8  # of small pictures; a ratio of 0.2
    assert lines[2].startswith('A held view costs ')


def test_what_is_no_number_is_refused(photo_root, call):
    import pytest
    with pytest.raises(SystemExit, match='--images'):
        call(device_views, '--data-root', photo_root / 'train2017',
             '--images', 0)
