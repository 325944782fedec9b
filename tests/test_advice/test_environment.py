"""What the doctor finds of a machine, each fault brought about."""
import importlib
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from cyborgs_plugin.advice import environment
from cyborgs_plugin.advice.environment import examine_environment, guarded
from cyborgs_plugin.advice.machine import Gpu, Machine
from cyborgs_plugin.errors import MissingPackageError, UserError


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Findings that have a word in them, on an idle machine of 4 cores."""
    monkeypatch.setattr(environment, 'usable_cores', lambda: 4)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    machine = Machine(4, 0., 10**10)
    monkeypatch.setattr(environment, 'look_at_machine', lambda: machine)

    def of(word, **changes):
        if changes:
            monkeypatch.setattr(environment, 'look_at_machine',
                                lambda: Machine(**{**vars(machine),
                                                   **changes}))
        return [(one.severity, one.found, one.fix)
                for one in examine_environment(str(tmp_path / 'run'))
                if word in one.found]

    return of


def test_a_sound_machine(found):
    seen = found('')
    assert not [one for one in seen if one[0] in ('warning', 'error')]
    words = ' '.join(one[1] for one in seen)
    for part in ('torch', 'mmpretrain', 'OpenCV', 'gloo is', '1 threads',
                 'disk free', 'can be written to'):
        assert part in words, part


@pytest.mark.parametrize('threads, load, fix', [
    (8, 0., 'OMP_NUM_THREADS=4'), (4, 3., 'OMP_NUM_THREADS=1'),
    (2, 3., None), (1, 9., None)])
def test_threads(found, monkeypatch, threads, load, fix):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    (severity, _, said), = found(f'{threads} threads', load=load)
    assert severity == ('warning' if fix else 'ok')
    assert fix is None or fix in said


def test_disks_and_memory(found, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(
        free=10**8, total=64 * 10**6))
    assert found('of disk free')[0][0] == 'warning'
    severity, _, fix = found('shared memory')[0]
    assert severity == 'warning' and '--shm-size' in fix
    assert found('of memory free', memory=10**9)[0][0] == 'warning'


@pytest.mark.skipif(os.geteuid() == 0, reason='root writes anywhere')
def test_a_folder_that_cannot_be_written_to(found, tmp_path):
    tmp_path.chmod(0o500)
    assert found('nothing can be written')[0][0] == 'error'


def test_a_disk_without_room(found, monkeypatch):
    def fail(dir):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(environment.tempfile, 'TemporaryFile', fail)
    assert found('No space left')[0][0] == 'error'


def test_ops_and_mmdet_that_are_missing(found, monkeypatch):
    def missing():
        raise MissingPackageError('Detectors need ops: build them')

    monkeypatch.setattr(environment, 'require_mmcv_ops', missing)
    assert found('Detectors need ops')[0][::2] == ('warning', 'build them')
    importer = importlib.import_module

    def without(name):
        if name == 'mmdet':
            raise ModuleNotFoundError(name='mmdet')
        return importer(name)

    monkeypatch.setattr(importlib, 'import_module', without)
    assert found('mmdet is not there')[0][0] == 'note'


def test_gpus(found, monkeypatch):
    full = Gpu('H', 10**9, 8 * 10**10)
    severity, _, fix = found('GPU 0: H', gpus=(full, ))[0]
    assert severity == 'warning' and 'nvidia-smi' in fix
    free = Gpu('H', 7 * 10**10, 8 * 10**10)
    assert found('GPU 0: H', gpus=(free, ))[0][0] == 'ok'
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(environment.torch_dist, 'is_nccl_available',
                        lambda: False)
    assert found('NCCL is not')[0][0] == 'error'


def test_a_check_that_dies_is_a_finding():
    def user():
        yield from ()
        raise UserError('x is 3: set it to 4')

    def bug():
        yield from ()
        raise RuntimeError('boom')

    one, = guarded('config', user)
    assert (one.severity, one.found, one.fix) == (
        'error', 'x is 3', 'set it to 4')
    one, = guarded('data', bug)
    assert one.area == 'data' and 'RuntimeError: boom' in one.found
    assert 'report it' in one.fix
