"""configs/cyborgs_distill_r18.py as a user runs it, on small pictures."""
import os
import os.path as osp
import subprocess

import pytest
import torch
from mmpretrain.models import MobileNetV2

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.safe_load import load_weights

from ..helpers import ROOT
from ..warm_python import python

CONFIG = osp.join(ROOT, 'configs', 'cyborgs_distill_r18.py')


def train(photo_root, work_dir, teacher, *arguments, epochs=1):
    return subprocess.run(
        [python(), osp.join(ROOT, 'tools', 'train.py'), CONFIG,
         '--work-dir', str(work_dir), *arguments, '--cfg-options',
         f'data={photo_root}/train2017', 'view_size=32',
         'train_dataloader.batch_size=4', 'train_dataloader.num_workers=0',
         f'train_cfg.max_epochs={epochs}', 'param_scheduler.0.end=1',
         'default_hooks.checkpoint.interval=1',
         'default_hooks.mask_update.source.long_side=None',
         'default_hooks.mask_update.source.smooth=8',
         'model.teacher.input_size=64'],
        env=dict(os.environ, TEACHER=str(teacher), OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=600)


def save_teacher(path, seed):
    torch.manual_seed(seed)
    torch.save(MobileNetV2().state_dict(), path)
    return path


@pytest.mark.slow
def test_trains_resumes_and_refuses_another_teacher(photo_root, tmp_path):
    teacher, work_dir = tmp_path / 'teacher.pth', tmp_path / 'w'
    missing = train(photo_root, tmp_path / 'no', teacher)
    assert missing.returncode and 'Traceback' not in missing.stdout
    assert f'{teacher}: no such file' in missing.stdout
    assert 'model.teacher.checkpoint' in missing.stdout

    save_teacher(teacher, 0)
    first = train(photo_root, work_dir, teacher)
    assert first.returncode == 0, first.stdout[-4000:]
    assert 'loss_cells' in first.stdout and 'loss_regions' in first.stdout
    bank = MaskBank.open(str(work_dir / 'masks' / 'round_0000'))
    assert bank.manifest['source']['backbone']['type'] == 'MobileNetV2'
    state = load_weights(
        str(work_dir / 'epoch_1.pth'), log=True)['state_dict']
    assert [key for key in state if key.startswith('teacher.')] == [
        'teacher.digest']

    moved = teacher.rename(tmp_path / 'moved.pth')
    second = train(photo_root, work_dir, moved, '--resume', epochs=2)
    assert second.returncode == 0, second.stdout[-4000:]
    assert 'Epoch(train) [2]' in second.stdout
    assert 'Epoch(train) [1]' not in second.stdout
    assert 'missing keys' not in second.stdout
    other = train(photo_root, work_dir, save_teacher(teacher, 1), '--resume',
                  epochs=3)
    assert other.returncode and 'Traceback' not in other.stdout
    assert 'was trained by a teacher of hash' in other.stdout
