"""The benchmark of the mask update: its parts and its last line."""
import os.path as osp
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmpretrain.models.backbones import ResNet

from ..helpers import write_photo
from ..warm_python import python

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))

from mask_update_speed import Published, inertia  # noqa: E402


def test_inertia():
    points = np.array([[0., 0], [2, 0], [5, 5]], dtype=np.float32)
    assert inertia(points, np.array([3, 3, 7])) == 2.
    assert inertia(points, np.array([0, 1, 2])) == 0.


def test_published_procedure(tmp_path):
    """Its maps are int64, at full size, of the nearest feature cell."""
    torch.manual_seed(0)
    backbone = ResNet(18)
    backbone.init_weights()
    paths = [str(tmp_path / f'{i}.png') for i in range(3)]
    for i in range(3):
        write_photo(tmp_path / f'{i}.png', (48, 64), i)
    published = Published(backbone, 'layer2.1', 4)
    points, labels, size = published.run(paths, str(tmp_path), 1)
    assert points.shape == (3 * 6 * 8, 128)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-5)
    for i, path in enumerate(paths):
        ids = np.load(f'{path}.npy')
        expected = labels.reshape(3, 6, 8)[i].repeat(8, 0).repeat(8, 1)
        assert ids.dtype == np.int64
        np.testing.assert_array_equal(ids, expected)
    assert size == 3 * (48 * 64 * 8 + 128)


def run_tool(folder, *options):
    for i in range(6):
        write_photo(folder / 'deep' / f'{i}.png', (96, 128), i)
    done = subprocess.run(
        [
            python(),
            osp.join(ROOT, 'tools', 'benchmarks', 'mask_update_speed.py'),
            '--data-root', str(folder), '--depth', '18', '--layer',
            'layer2.1', '--num-clusters', '8', '--group-size', '3', *options
        ],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_steps(tmp_path):
    lines = run_tool(tmp_path, '--steps').stdout.splitlines()
    assert sum(line.startswith('forward: ') for line in lines) == 5
    ratios = [float(line.split()[-3]) for line in lines if 'inertia' in line]
    assert len(ratios) == 4 and all(0.8 < ratio < 1.2 for ratio in ratios)


@pytest.mark.slow
def test_whole_run(tmp_path):
    done = run_tool(tmp_path)
    lines = done.stdout.splitlines()
    assert ' threads; torch ' in done.stdout and ' kernels' in done.stdout
    for procedure in ('published', 'ours'):
        for part in ('forward', 'k-means'):
            assert f'{procedure}: {part}' in done.stdout
    match = re.fullmatch(
        r'ratio: (\d+\.\d\d) inertia_ratio: (\d\.\d{4}) bytes_ratio: (\d+)',
        lines[-1])
    assert match and 0.8 < float(match[2]) < 1.2
    # 8 bytes a pixel against one for 64 and what a small round costs
    assert 20 < int(match[3]) < 512
