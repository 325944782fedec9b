"""On a pretended GPU: a whole run, and where the host waits in its steps."""
import json
import os
import os.path as osp
import subprocess
import sys

import pytest
from mmengine.config import Config

from ..helpers import RECIPE, ROOT, small_config

# In a process of its own, since torch keeps a device that it was given.
SCRIPT = """
import json, sys
from collections import Counter
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from pretended_device import (DEVICE, KERNELS, WAITS, DeviceMixError,
                              Pretended, to_device)
from cyborgs_plugin.models import CYBORGS
from cyborgs_plugin.ops import kmeans

found, batch = dict(waits=[], kernels=[]), {}


class Begin(Hook):
    priority = 'HIGHEST'

    def before_train_iter(self, runner, batch_idx, data_batch):
        batch.update(data_batch)
        WAITS.clear(), KERNELS.clear()


class End(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, *args, **kwargs):
        found['waits'].append(Counter(
            f'{kind}, {place.split(":")[0]}'
            for kind, place in WAITS.elements()))
        found['kernels'].append(sum(KERNELS.values()))


torch.set_num_threads(1)
runner = Runner.from_cfg(Config.fromfile(sys.argv[1]))
runner.register_hook(Begin())
runner.register_hook(End())
with Pretended():
    model = to_device(runner.model)
    runner.train()
    loss = CYBORGS.loss

    def asking(self, inputs, data_samples):
        if inputs[0].mean() > -1e9:
            return loss(self, inputs, data_samples)

    def mixing(self, inputs, data_samples):
        return loss(self, [view.cpu() for view in inputs], data_samples)

    inputs = model.data_preprocessor(batch, True)
    for name, other in ('as it is', loss), ('asking', asking):
        CYBORGS.loss = other
        WAITS.clear()
        model(**inputs, mode='loss')
        found[name] = sum(WAITS.values())
    CYBORGS.loss = mixing
    try:
        model(**inputs, mode='loss')
    except DeviceMixError as error:
        found['mixing'] = str(error)
    points = torch.randn(9000, 32)
    there = points.to(DEVICE)
    WAITS.clear()
    labels, _ = kmeans(there, 16, num_iters=12, seed=1)
    found['k-means'] = sum(WAITS.values())
    found['same labels'] = torch.equal(
        labels.cpu(), kmeans(points, 16, num_iters=12, seed=1)[0])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_waits_of_the_recipe_on_one_gpu(photo_root, tmp_path):
    cfg = small_config(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 2})
    recipe = Config.fromfile(RECIPE)
    cfg.optim_wrapper = recipe.optim_wrapper
    cfg.param_scheduler = recipe.param_scheduler
    assert recipe.default_hooks.keys() <= cfg.default_hooks.keys()
    cfg.dump(str(tmp_path / 'small.py'))
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(tmp_path / 'small.py')],
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(
            [ROOT, osp.join(ROOT, 'tools', 'benchmarks')])),
        cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # Each is named: a new one has to be meant. Where the views are copied
    # without a wait, mmpretrain's index of their channels is still copied.
    assert len(found['waits']) == 6  # two epochs, of rounds 0 and 1
    for waits in found['waits'][1:]:
        assert waits == {
            'copy cpu to gpu, models/scene_data_preprocessor.py': 2,
            'copy gpu to cpu, models/regions.py': 1,
            'copy gpu to cpu, engine/logged_scalars_hook.py': 1,
        }
        assert sum(waits.values()) <= 8
    assert max(found['kernels'][1:]) < 1300
    # The device tells what it should.
    assert found['asking'] == found['as it is'] + 1
    assert 'cpu' in found['mixing'] and 'gpu:0' in found['mixing']
    # One an iteration, and three before and after.
    assert found['k-means'] <= 12 + 3 and found['same labels']
