"""One command, run again until it is done: photographs in tar files of a
server that speaks S3, and a machine that is taken away twice."""
import os
import signal
import subprocess
import time

import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer

from cyborgs_plugin.datasets import MaskBank

from .helpers import ROOT, TOY, write_photo
from .test_datasets.test_shards import pack
from .warm_python import python

pytestmark = pytest.mark.slow  # whole runs
IMAGES, TARS, PATIENCE = 12, 3, 240


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Tar files of photographs, behind a server of moto."""
    server = ThreadedMotoServer(port=0)
    server.start()
    monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'AKIATESTTEST')
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'geheim123456')
    monkeypatch.setenv('AWS_ENDPOINT_URL',
                       'http://{}:{}'.format(*server.get_host_and_port()))
    names = [f'{number:02d}.png' for number in range(IMAGES)]
    for seed, name in enumerate(names):
        write_photo(tmp_path / 'photos' / name, seed=seed)
    files = fsspec.filesystem('s3')
    files.mkdir('bucket')
    for tar in range(TARS):
        files.put(pack(tmp_path / f'{tar}.tar', [
            (name, (tmp_path / 'photos' / name).read_bytes())
            for name in names[tar::TARS]]), f'bucket/photos/{tar}.tar')
    yield 's3://bucket/photos'
    server.stop()


def start(work_dir, index):
    """The command, as a user gives it each time."""
    return subprocess.Popen(
        [python(), os.path.join(ROOT, 'tools', 'train.py'), TOY, '--resume',
         '--work-dir', str(work_dir), '--cfg-options',
         f'train_dataloader.dataset.index={index}',
         f'train_dataloader.dataset.cache={work_dir}.cache',
         'train_dataloader.batch_size=3', 'train_dataloader.num_workers=1',
         'train_cfg.max_epochs=2', 'default_hooks.mask_update.interval=1',
         'default_hooks.mask_update.source.long_side=64',
         'default_hooks.mask_update.decode_threads=1',
         'default_hooks.logger.interval=1'],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def preempted_when(run, happens):
    """Send SIGTERM as soon as something has happened; give the output."""
    end = time.monotonic() + PATIENCE
    while not happens():
        assert run.poll() is None and time.monotonic() < end, (
            run.communicate(timeout=PATIENCE)[0])
        time.sleep(0.002)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75, said
    return said


def weights(work_dir):
    return torch.load(work_dir / 'epoch_2.pth',
                      weights_only=False)['state_dict']


def test_preempted_within_an_epoch_and_within_a_round(bucket, tmp_path):
    index, alone, taken = (tmp_path / name for name in ('i', 'alone', 'w'))
    subprocess.run(
        [python(), '-m', 'cyborgs_plugin', 'index-photos', bucket, '--out',
         str(index)], check=True, capture_output=True)
    run = start(alone, index)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, said

    def logged(words):
        return any(words in log.read_text()
                   for log in taken.glob('*/*.log'))

    said = preempted_when(start(taken, index),
                          lambda: logged('Epoch(train) [1][2/4]'))
    saved, = taken.glob('iter_*.pth')  # none at the end of an epoch
    assert int(saved.stem[5:]) < 4
    assert f'SIGTERM ended the training at step {saved.stem[5:]}' in said
    partial = taken / 'masks' / '.round_0001.partial'
    preempted_when(start(taken, index), partial.exists)
    assert not (taken / 'masks' / 'round_0001').exists()
    run = start(taken, index)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, said
    assert 'geheim' not in said
    first, second = weights(alone), weights(taken)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for name in ('round_0000', 'round_0001'):
        assert len({MaskBank.open(work / 'masks' / name).hash
                    for work in (alone, taken)}) == 1
