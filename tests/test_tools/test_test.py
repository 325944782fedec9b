"""tools/test.py evaluates as a user calls it, and refuses what misfits."""
import os
import os.path as osp
import re
import subprocess

import pytest
import torch
from mmengine.config import Config

from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes

from ..helpers import ROOT
from ..warm_python import python

pytest.importorskip('mmdet', reason='needs mmdet and the ops of mmcv')
from mmdet.registry import MODELS as DETECTORS
from mmdet.utils import register_all_modules

CONFIG = osp.join(ROOT, 'configs', 'transfer',
                  'mask-rcnn_r18_fpn_random_toy.py')


def evaluate(*arguments):
    done = subprocess.run(
        [python(), osp.join(ROOT, 'tools', 'test.py'), *arguments],
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        timeout=600)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_evaluates_and_refuses(tmp_path):
    make_toy_scenes(str(tmp_path / 'toy'), num_train=0, num_val=3)
    register_all_modules()
    model = DETECTORS.build(Config.fromfile(CONFIG).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'detector.pth')
    options = [
        '--work-dir', str(tmp_path / 'work'), '--cfg-options',
        f'data_root={tmp_path}/toy', 'test_dataloader.num_workers=0'
    ]
    code, said = evaluate(CONFIG, str(tmp_path / 'detector.pth'), *options)
    assert code == 0, said[-3000:]
    assert 'coco/bbox_mAP' in said or 'did not find' in said or (
        'predictions' in said)

    for checkpoint, more, expected in (
        ('detector.pth', 'test_dataloder.batch_size=1', 'test_dataloader'),
        ('nothing.pth', 'test_dataloader.batch_size=1', 'nothing.pth'),
        ('other.pth', 'test_dataloader.batch_size=1', 'other.pth')):
        torch.save(
            dict(state_dict={'conv1.weight': torch.ones(2)}),
            tmp_path / 'other.pth')
        code, said = evaluate(CONFIG, str(tmp_path / checkpoint), *options,
                              more)
        assert code == 1 and 'Traceback' not in said, said[-3000:]
        # stdout may be written after stderr, whose line is the error
        assert re.search(f'^\\w*Error: .*{expected}', said, re.M), said


@pytest.mark.slow
def test_a_pretraining_config_has_nothing_to_evaluate(tmp_path):
    code, said = evaluate(
        osp.join(ROOT, 'configs', 'cyborgs_toy.py'), str(tmp_path / 'x.pth'))
    assert code == 1 and 'has no test_dataloader' in said
