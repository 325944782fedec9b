"""Parts of tools/demo.py; `make demo` runs the whole."""
import os.path as osp
import sys

import numpy as np
import pytest

from cyborgs_plugin.errors import UserError

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools'))
import demo  # noqa: E402


def test_regions_keep_the_ids_of_those_they_lie_on():
    before = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]])
    # the same with other names, one region split, at twice the size
    names = np.array([5, 0, 3, 2])
    after = names[before].repeat(2, 0).repeat(2, 1)
    after[0, 0] = 1
    found = demo.renamed(after, before)
    expected = before.repeat(2, 0).repeat(2, 1)
    assert (found == expected)[after != 1].all()
    assert found[0, 0] > 3


def test_partitions_stay_the_same():
    random = np.random.default_rng(0)
    ids, before = random.integers(0, 9, (2, 12, 16))
    found = demo.renamed(ids, before)
    pairs = {*zip(ids.ravel(), found.ravel())}
    assert len(pairs) == len(np.unique(ids)) == len(np.unique(found))


def test_backbone_is_the_one_that_was_published_last(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'WORK', str(tmp_path))
    for name in ('a.pth', 'b.pth', 'newest.pth'):
        (tmp_path / name).touch()
    (tmp_path / 'publish.log').write_text(
        f'{tmp_path}/a.pth\nWrote {tmp_path}/b.pth and b.safetensors: 3\n'
        f'{tmp_path}/b.pth\na warning that came later\n')
    assert demo.published() == f'{tmp_path}/b.pth'
    (tmp_path / 'b.pth').unlink()
    with pytest.raises(UserError, match='publish.log names no .*--fresh'):
        demo.published()
