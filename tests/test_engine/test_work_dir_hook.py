"""One training in a work_dir, which may be moved."""
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cyborgs_plugin.engine import WorkDirHook
from cyborgs_plugin.engine.work_dir_hook import LOCK, latest_checkpoint
from cyborgs_plugin.errors import UserError

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


def test_a_disk_without_locks(photo_root, tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(fcntl, 'lockf', no_locks)
    runner = small_run(photo_root, tmp_path / 'w')
    logged = []
    monkeypatch.setattr(runner.logger, 'warning', logged.append)
    WorkDirHook().before_run(runner)
    assert len(logged) == 1 and 'No locks available' in logged[0]


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
