"""Every pretraining has the hooks that keep it from going wrong unseen."""
import glob
import os.path as osp

import pytest
from mmengine.config import Config

from ..helpers import ROOT

CONFIGS = [
    path for path in glob.glob(osp.join(ROOT, 'configs', '**', '*.py'),
                               recursive=True)
    if '_base_' not in path and '/transfer/' not in path
]


@pytest.mark.parametrize('path', CONFIGS, ids=map(osp.basename, CONFIGS))
def test_pretraining_is_guarded(path):
    hooks = Config.fromfile(path).default_hooks
    assert {hook['type'] for hook in hooks.values()} >= {
        'AtomicCheckpointHook', 'EpochSeedHook', 'FiniteHook',
        'HealthHook', 'PretrainedCheckHook', 'WorkDirHook', 'WorkerExitHook'}
