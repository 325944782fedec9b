"""Nothing of a training that is killed lives on."""
import os
import signal
import subprocess
import sys
import time

import pytest

from ..helpers import ROOT, TOY, small

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != 'linux', reason='Linux only')
]


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children') as file:
        return [int(child) for child in file.read().split()]


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] not in 'ZX'
    except FileNotFoundError:
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.1)
    return condition()


def test_data_workers_end_with_a_killed_training(photo_root, tmp_path):
    process = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, 'tools', 'train.py'), TOY,
         *small(photo_root, tmp_path / 'w', 50,
                'train_dataloader.num_workers=2',
                'default_hooks.mask_update.interval=-1')],
        env=dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS='1'),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_for(lambda: process.poll() is not None or
                    (tmp_path / 'w' / 'epoch_1.pth').exists(), 200)
    workers = children(process.pid)
    assert len(workers) >= 2 and all(map(alive, workers))
    # one that is stopped, as one that waits for a reader, looks at nothing
    os.kill(workers[0], signal.SIGSTOP)
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        assert wait_for(lambda: not any(map(alive, workers)), 30)
    finally:
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)
