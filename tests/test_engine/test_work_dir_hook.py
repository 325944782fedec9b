"""One training in a work_dir, which may be moved."""
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cyborgs_plugin.engine import WorkDirHook
from cyborgs_plugin.engine.work_dir_hook import (
    LOCK,
    latest_checkpoint,
    writing_to,
)
from cyborgs_plugin.errors import MissingFileError, UserError

from ..helpers import ROOT, run_train, small, small_run


@pytest.fixture
def holder(tmp_path):
    """A process that trains in tmp_path/w, with a data worker."""
    tell, told = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            WorkDirHook().lock(str(tmp_path / 'w'))
            worker = os.fork()
            if worker:
                os.write(told, str(worker).encode())
            time.sleep(60)
        finally:
            os._exit(0)
    worker = int(os.read(tell, 20))
    yield process
    for pid in (worker, process):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_second_training_is_refused(photo_root, tmp_path, holder):
    runner = small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1, 'train_dataloader.batch_size': 12})
    with pytest.raises(UserError) as caught:
        runner.train()
    said = str(caught.value)
    assert str(tmp_path / 'w') in said and '--work-dir' in said
    assert f'host {socket.gethostname()}, process {holder}, since' in said
    assert not (tmp_path / 'w' / 'masks').exists()
    # Killed, it has left its file and a worker: neither holds the folder.
    os.kill(holder, signal.SIGKILL)
    while 'Z' not in open(f'/proc/{holder}/stat').read().split(')')[1]:
        time.sleep(0.01)
    assert (tmp_path / 'w' / LOCK).read_text()
    runner.train()
    assert (tmp_path / 'w' / 'epoch_1.pth').exists()
    assert not (tmp_path / 'w' / LOCK).read_text()


@pytest.mark.parametrize('code', [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks(photo_root, tmp_path, monkeypatch, code):
    """Both calls only warn: of the hook, and of tools/train.py before it."""
    def no_locks(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, 'lockf', no_locks)
    runner = small_run(photo_root, tmp_path / 'w')
    logged = []
    monkeypatch.setattr(
        runner.logger, 'log', lambda level, text: logged.append(text))
    WorkDirHook().lock(str(tmp_path / 'w'))
    WorkDirHook().before_run(runner)
    assert len(logged) == 2 and len(set(logged)) == 1
    assert os.strerror(code) in logged[0] and str(tmp_path / 'w') in logged[0]


def refused(path):
    with pytest.raises(UserError, match='--work-dir') as caught:
        WorkDirHook().lock(str(path))
    assert str(path) in str(caught.value)


def test_a_folder_that_cannot_be_one(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    refused(tmp_path / 'file')
    refused(tmp_path / 'file' / 'w')
    monkeypatch.setattr(os, 'write', failing(errno.ENOSPC))
    refused(tmp_path / 'w')
    monkeypatch.setattr(os, 'makedirs', failing(errno.EROFS))
    refused(tmp_path / 'w')


def failing(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_other_errors_are_not_the_folder_s(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, 'x', str(tmp_path / 'w')),
                  PermissionError(errno.EACCES, 'x', '/data/a.jpg'),
                  MissingFileError('x')):
        with pytest.raises(type(error)) as caught, writing_to(
                str(tmp_path / 'w')):
            raise error
        assert caught.value is error


def test_the_latest_checkpoint_is_that_of_the_folder(tmp_path):
    old, new = tmp_path / 'old', tmp_path / 'new'
    old.mkdir()
    assert latest_checkpoint(str(old)) is None
    (old / 'epoch_3.pth').touch()
    (old / 'last_checkpoint').write_text(f'{old / "epoch_3.pth"}\n')
    assert latest_checkpoint(str(old)) == str(old / 'epoch_3.pth')
    new.mkdir()
    (new / 'last_checkpoint').write_text(str(old / 'epoch_3.pth'))
    # as of a run whose checkpoints lie elsewhere (checkpoint.out_dir)
    assert latest_checkpoint(str(new)) == str(old / 'epoch_3.pth')
    (new / 'epoch_3.pth').touch()
    assert latest_checkpoint(str(new)) == str(new / 'epoch_3.pth')
    (new / 'epoch_3.pth').rename(new / 'epoch_2.pth')
    (old / 'epoch_3.pth').unlink()
    for content in (str(old / 'epoch_3.pth'), ''):
        (new / 'last_checkpoint').write_text(content)
        with pytest.raises(UserError, match='holds epoch_2.pth.*--resume'):
            latest_checkpoint(str(new))
    (new / 'last_checkpoint').write_text('s3://bucket/epoch_3.pth')
    assert latest_checkpoint(str(new)) == 's3://bucket/epoch_3.pth'


@pytest.mark.slow
def test_two_trainings_at_a_time(photo_root, tmp_path):
    """The one that comes second leaves all that the first has written."""
    arguments = small(photo_root, tmp_path / 'w', 99)
    first = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, 'tools', 'train.py'),
         os.path.join(ROOT, 'configs', 'cyborgs_toy.py'), *arguments],
        env=dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS='1'),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    config = tmp_path / 'w' / 'cyborgs_toy.py'
    try:
        # made after the config
        while not (tmp_path / 'w' / 'masks').exists() and (
                first.poll() is None):
            time.sleep(0.1)
        before = config.read_bytes()
        done = run_train([*arguments, 'train_cfg.max_epochs=7'], check=False)
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert (f'in use by another training (host {socket.gethostname()}, '
            f'process {first.pid}') in done.stdout
    assert config.read_bytes() == before
