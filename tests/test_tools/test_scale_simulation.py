"""What tools/benchmarks/scale_simulation.py measures, on a small scale."""
import json
import os.path as osp
import sys

import pytest

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.mask_bank import publish_blocks, round_path
from cyborgs_plugin.datasets.photo_index import PhotoIndex
from cyborgs_plugin.segmentation.groups import KeyedGroups

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import scale_simulation as simulation  # noqa: E402


@pytest.mark.parametrize('ranks', [1, 3])
def test_the_parts_of_all_ranks_are_a_round(tmp_path, ranks):
    path, root = str(tmp_path / 'index'), str(tmp_path / 'masks')
    assert simulation.make_index(path, 20_000)['index_mb'] > 1
    started = simulation.start_rank(path)
    assert started['start_s'] < 1 and started['start_mb'] < 20
    parts = [simulation.write_part(path, root, rank, ranks)
             for rank in range(ranks)]
    assert sum(part['images'] for part, _ in parts) == 20_000
    index = PhotoIndex(path)
    publish_blocks(root, 0, KeyedGroups(index.keys(), 0, 0, 16).layout(),
                   [block for _, blocks in parts for block in blocks],
                   dict(photographs=index.fingerprint))
    found = simulation.resume(path, root)
    assert found['cover_s'] < 0.1 and found['resume_mb'] < 50
    assert len(MaskBank(round_path(root, 0), verify=True)) == 20_000


def test_the_table_and_the_plot(tmp_path):
    with open(osp.join(ROOT, 'docs', 'results', 'scale.json')) as file:
        rows = json.load(file)
    for row in rows:
        row['ranks'] = {int(key): value for key, value in row['ranks'].items()}
    with open(osp.join(ROOT, 'docs', 'scaling.md')) as file:
        assert simulation.table(rows) in file.read()
    simulation.plot(rows, str(tmp_path / 'growth.svg'))
    assert (tmp_path / 'growth.svg').stat().st_size > 10_000
