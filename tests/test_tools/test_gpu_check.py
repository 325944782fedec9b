"""The check of a GPU machine, as far as it goes without one."""
import json
import os
import os.path as osp
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from cyborgs_plugin.ops.superpixels import find_superpixels
from cyborgs_plugin.segmentation import known_superpixels

from ..helpers import ROOT, write_photo

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import gpu_check  # noqa: E402
import plan  # noqa: E402

STEP = dict(byol_ms=200., cyborgs_ms=250., ratio=1.25, images_per_s=256.,
            peak_mib=dict(byol=900, cyborgs=1000))


def test_what_is_equal_is_told_from_what_is_not(monkeypatch):
    found = gpu_check.equal_to_cpu('cpu')
    assert len(found) == 6 and not gpu_check.failed(found)
    assert all(value == 0 for value, _ in found.values())
    calls, pool = [], gpu_check.pool_regions
    monkeypatch.setattr(
        gpu_check, 'pool_regions',
        lambda *args: pool(*args) + 0.01 * (calls.append(0) or len(calls)))
    found = gpu_check.equal_to_cpu('cpu')
    assert gpu_check.failed(found)
    assert gpu_check.shown(found['pooling']) == '0.01 ABOVE 0.0001'


def test_the_parts_of_a_mask_round(tmp_path):
    paths = [str(tmp_path / f'{i}.png') for i in range(5)]
    for i in range(5):
        write_photo(tmp_path / f'{i}.png', (96, 128), i)
    found = gpu_check.mask_round(
        paths, 'cpu', gpu_check.resnet(18), 'layer2.1', group_size=3)
    assert found.pop('images') == 5 and found.pop('decoding threads') == 2
    assert found.keys() == {'seconds per image', 'decode, alone',
                            'forward, alone', 'k-means, alone'}
    assert all(0 < seconds < 5 for seconds in found.values())
    assert found['seconds per image'] > 0.5 * found['forward, alone']


def test_rounds_of_superpixels(tmp_path, monkeypatch):
    searches = []
    monkeypatch.setattr(
        known_superpixels, 'find_superpixels', lambda image, **options:
        searches.append(1) or find_superpixels(image, **options))
    known_superpixels.known_superpixels.forget()
    paths = [tmp_path / f'{i}.png' for i in range(3)]
    for i, path in enumerate(paths):
        write_photo(path, (96, 128), i)
    found = gpu_check.superpixel_rounds([*map(str, paths)], 'cpu')
    assert found.pop('images') == 3
    assert found.keys() == {'first, seconds per image',
                            'later, seconds per image'}
    assert all(0 < seconds < 20 for seconds in found.values())
    assert len(searches) == 1 + 3  # to get warm, and in the first round


def args(tmp_path, **changes):
    return SimpleNamespace(**(dict(
        out=str(tmp_path / 'g.json'), light=True, seconds=570.,
        data_root=None) | changes))


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """All that takes a GPU, or minutes, pretended."""
    for name, value in dict(
            machine=dict(GPU='H0', cores=16), equal_to_cpu=dict(x=(0., 1.)),
            run_tests='3 passed', two_ranks='gradients equal',
            training='2 epochs', mmcv_ops='NMS keeps',
            mask_round={'seconds per image': 0.002},
            superpixel_rounds={'later, seconds per image': 0.01},
            pipeline=dict(byol=20., ours=60., ratio=3.),
            device_views={'images a second': 900.},
            steps=dict(bfloat16=STEP)).items():
        monkeypatch.setattr(gpu_check, name,
                            lambda *_, value=value, **options: value)
    monkeypatch.setattr(gpu_check, 'find_photos', lambda *_: [])
    return monkeypatch


def test_one_table_and_one_json_that_plan_takes(parts, tmp_path, call):
    result = gpu_check.check(args(tmp_path), 'cuda')
    table = gpu_check.table(result)
    assert '| machine: GPU | H0 |' in table
    assert 'peak_mib byol 900, cyborgs 1000' in table
    # 16 cores of 60 images/s, a GPU that takes 64 in a quarter of a second
    assert ('16 cores make 960 images/s, a GPU takes 256 in bfloat16: they '
            'feed 3.8') in table
    assert not gpu_check.failed(result) and 'ops of mmcv' not in result
    assert json.loads((tmp_path / 'g.json').read_text())['plan'] == dict(
        step=0.25, batch=64, pipeline=60., round=0.002)
    said = call(plan, '--check', tmp_path / 'g.json', '--gpus', 2)
    assert '118,287 images, 2 GPUs with 64 each, 0.25 s per step' in said
    assert 'ops of mmcv' in gpu_check.check(args(tmp_path, light=False),
                                            'cuda')


def test_a_part_that_fails_or_is_missing_does_not_end_it(parts, tmp_path):
    def broken(*_, **options):
        raise RuntimeError('CUDA error:\n  no kernel')

    def missing(*_):
        raise ModuleNotFoundError('No module', name='pipeline_speed')

    parts.setattr(gpu_check, 'mask_round', broken)
    parts.setattr(gpu_check, 'pipeline', missing)
    result = gpu_check.check(args(tmp_path), 'cuda')
    assert result['mask round'] == ('FAILED: RuntimeError: CUDA error: no '
                                    'kernel')
    assert result['pipeline'] == 'not run: pipeline_speed is not here'
    assert result['cores'] == 'not reckoned'
    assert result['steps'] == dict(bfloat16=STEP) and gpu_check.failed(result)


def test_what_there_is_no_time_for_is_said(parts, tmp_path):
    result = gpu_check.check(args(tmp_path, seconds=35), 'cuda')
    assert result['tests marked gpu'] == '3 passed'
    assert result['steps'] == 'not run: 35 s are over'
    assert not gpu_check.failed(result)


def test_each_precision_by_itself(monkeypatch):
    def measure(depth, size, batch, device, amp=None, **options):
        if amp == 'float16':
            raise torch.cuda.OutOfMemoryError('no room')
        return dict(ratio=1.25, amp=amp, **options)

    monkeypatch.setitem(sys.modules, 'step_speed',
                        SimpleNamespace(measure=measure))
    found = gpu_check.steps('cuda', lambda: 100.)
    assert list(found) == list(gpu_check.STEPS)
    assert found['float32'] == dict(ratio=1.25, amp=None)
    assert found['bfloat16, channels last']['channels_last'] is True
    assert found['float16'].startswith('FAILED: OutOfMemoryError: no room')
    assert found['bfloat16, compiled'] == 'not measured: the time is up'


def test_without_a_gpu_the_pretended_one_is_tested(tmp_path, call,
                                                   monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(gpu_check, 'run_tests', lambda marked, limit:
                        asked.append(marked) or '9 passed')
    said = call(gpu_check, '--out', tmp_path / 'g.json')
    assert said.startswith('No CUDA GPU here')
    assert '| tests on a pretended GPU | 9 passed |' in said
    assert asked == ['not gpu']
    monkeypatch.setattr(gpu_check, 'run_tests', lambda *_: 'FAILED: 1 failed')
    with pytest.raises(SystemExit, match='not as it should be'):
        call(gpu_check, '--out', tmp_path / 'g.json')


def test_last_lines_of_commands():
    assert gpu_check.last_line(
        [sys.executable, '-c', 'print(1); print(2)'], 60) == '2'
    said = gpu_check.last_line(
        [sys.executable, '-c', 'print(1); raise SystemExit("no")'], 60)
    assert said == 'FAILED: 1 / no'
    assert gpu_check.last_line(
        [sys.executable, '-c', 'import time; time.sleep(9)'],
        0.2) == 'FAILED: longer than 0 s'


LIGHT = """
import importlib, runpy, sys
# as where the pack of ../shared/checks/gpu/pack.sh is unpacked
for name in ('mmdet', 'mmcv.ops', 'mmcv._ext', 'faiss', 'hypothesis',
             'pytest', 'mim', 'tensorboard', 'datasets'):
    sys.modules[name] = None
for name, called in (('step_speed', 'measure'), ('pipeline_speed', 'measure'),
                     ('gpu_proof', 'main')):
    assert callable(getattr(importlib.import_module(name), called))
sys.argv = ['gpu_check.py', '--light', '--help']
runpy.run_path({tool!r}, run_name='__main__')
"""


@pytest.mark.slow
def test_light_and_the_proof_need_no_ops_of_mmcv(tmp_path):
    tool = osp.join(ROOT, 'tools', 'benchmarks', 'gpu_check.py')
    done = subprocess.run(
        [sys.executable, '-c', LIGHT.format(tool=tool)], cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(
            [ROOT, osp.dirname(tool)])), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '--light' in done.stdout
