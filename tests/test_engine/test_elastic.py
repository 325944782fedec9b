"""Runs that torchrun starts again after a process of theirs was killed."""
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import torch

from ..helpers import ROOT, small_config
from .test_kills import PATIENCE

pytestmark = pytest.mark.slow

SHARED = dict(TORCH_DISABLE_SHARE_RDZV_TCP_STORE='1')
KILLS = """
import os, signal
from cyborgs_plugin.models import CYBORGS

original, calls = CYBORGS.loss, []


def killed(self, *args, **kwargs):
    calls.append(0)
    count = os.environ['TORCHELASTIC_RESTART_COUNT']
    if len(calls) == 3 and count == '0' and os.environ['VICTIM'] in (
            os.environ['RANK'], 'any'):
        if os.environ.get('WITH_AGENT'):
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)


CYBORGS.loss = killed
"""


def torchrun(photo_root, tmp_path, name, options, victim='', **variables):
    """Start a run of two epochs of two steps (of one rank: three)."""
    (tmp_path / 'killing.py').write_text(KILLS)
    cfg = small_config(photo_root, tmp_path / name, **{
        'train_dataloader.batch_size': 3,
        'train_cfg.max_epochs': 2,
        'default_hooks.checkpoint.interval': 1,
        'optim_wrapper.optimizer.lr': 0.01})
    cfg.custom_imports.imports.append('killing')
    cfg.dump(tmp_path / f'{name}.py')
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', *options,
         os.path.join(ROOT, 'tools', 'train.py'), str(tmp_path / f'{name}.py'),
         '--launcher', 'pytorch'],
        env=dict(os.environ, PYTHONPATH=f'{ROOT}:{tmp_path}', VICTIM=victim,
                 OMP_NUM_THREADS='1', **SHARED, **variables),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process):
    """Wait for a run; give its exit code and what it said."""
    try:
        said, _ = process.communicate(timeout=2 * PATIENCE)
    finally:
        process.kill()
    return process.returncode, said


def weights(folder):
    saved = torch.load(folder / 'epoch_2.pth', weights_only=False)
    return saved['state_dict']


def test_a_killed_rank_comes_back(photo_root, tmp_path):
    """In the second epoch; the end is that of a run that was left alone."""
    options = ['--standalone', '--nproc_per_node=2', '--max-restarts=3']
    code, said = ended(torchrun(photo_root, tmp_path, 'alone', options))
    assert code == 0, said[-5000:]
    code, said = ended(torchrun(photo_root, tmp_path, 'killed', options,
                                victim='1'))
    assert code == 0, said[-5000:]
    assert 'Restart 1 by torchrun: the run is resumed' in said
    assert re.search(r'resumed epoch: 1, iter: 2\b', said), said[-5000:]
    alone, killed = (weights(tmp_path / name) for name in ('alone',
                                                              'killed'))
    assert alone.keys() == killed.keys()
    for key, value in alone.items():
        assert torch.equal(value, killed[key]), key


def test_a_lost_machine_is_done_without(photo_root, tmp_path):
    """Two machines of a rank each, of which one is enough."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    options = ['--nnodes=1:2', '--nproc_per_node=1', '--max-restarts=3',
               '--rdzv-backend=c10d', f'--rdzv-endpoint=localhost:{port}',
               '--rdzv-id=run']
    # the one that the other meets at is not the one that is lost
    processes = [
        torchrun(photo_root, tmp_path, 'w', [
            *options, f'--rdzv-conf=last_call_timeout=5,is_host={host}'],
            victim, WITH_AGENT='1', GLOO_SOCKET_IFNAME='lo')
        for host, victim in ((1, ''), (0, 'any'))]
    results = [ended(process) for process in processes]
    codes = sorted(code for code, _ in results)
    assert codes == [-signal.SIGKILL, 0], results
    said = next(said for code, said in results if code == 0)
    assert 'Restart 1 by torchrun: the run is resumed' in said
    assert re.search(r'resumed epoch: 1\b', said), said[-5000:]
    assert (tmp_path / 'w' / 'epoch_2.pth').exists()
