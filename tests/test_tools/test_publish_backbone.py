"""Publishing a backbone: exact, and safe with files of others."""
import glob
import os.path as osp
import pickle
import subprocess
import sys

import pytest
import torch
from mmengine.logging import HistoryBuffer

from ..test_models.test_cyborgs import ROOT

pytestmark = pytest.mark.slow  # each starts a process that imports torch
TOOL = osp.join(ROOT, 'tools', 'model_converters', 'publish_backbone.py')


def publish(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)],
                          capture_output=True,
                          text=True,
                          env=None)


def checkpoint(path, **more):
    buffer = HistoryBuffer([1., 2.], [1, 1])
    torch.save(
        dict(
            state_dict={
                'backbone.conv1.weight': torch.ones(2),
                'target_net.module.0.conv1.weight': torch.zeros(2),
                'neck.x': torch.ones(1)
            },
            meta=dict(epoch=3, iter=9),
            message_hub=dict(
                log_scalars=dict(loss=buffer),
                runtime_info=dict(mask_round=2)),
            **more), path)


@pytest.mark.parametrize('network, value', [('online', 1), ('target', 0)])
def test_round_trip(tmp_path, network, value):
    path = tmp_path / 'epoch_3.pth'
    checkpoint(path)
    done = publish(path, '--network', network, '--safetensors')
    assert done.returncode == 0, done.stderr
    file, = glob.glob(str(tmp_path / '*backbone-????????.pth'))
    content = torch.load(file, weights_only=True)
    assert list(content['state_dict']) == ['conv1.weight']
    assert content['state_dict']['conv1.weight'].tolist() == [value] * 2
    assert content['meta']['mask_round'] == 2
    assert content['meta']['network'] == network
    assert glob.glob(str(tmp_path / '*.safetensors'))


class Canary:

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_code_in_a_pickle_does_not_run(tmp_path):
    path, canary = tmp_path / 'x.pth', tmp_path / 'canary'
    checkpoint(path, evil=Canary(canary))
    done = publish(path)
    assert done.returncode == 1 and 'open' in done.stderr
    assert not canary.exists()
    (tmp_path / 'y.pth').write_bytes(pickle.dumps(Canary(canary)))
    assert publish(tmp_path / 'y.pth').returncode == 1
    assert not canary.exists()


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / 'x.pth'
    assert 'no such file' in publish(path).stderr
    checkpoint(path)
    path.write_bytes(path.read_bytes()[:500])
    assert 'truncated' in publish(path).stderr
    torch.save(dict(state_dict={'encoder.x': torch.ones(1)}), path)
    done = publish(path)
    assert "'backbone.'" in done.stderr and 'encoder' in done.stderr
