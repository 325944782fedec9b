"""The measure of a step against BYOL's."""
import os
import os.path as osp
import re
import subprocess
import sys

import pytest
import torch

from cyborgs_plugin.models import (
    MaskContrastiveLoss,
    PublishedMaskGroundedNeck,
)

from ..helpers import ROOT, random_case
from ..warm_python import python

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import step_speed  # noqa: E402

PROJECTOR = dict(type='LinearNeck', in_channels=6, out_channels=4)


def test_the_published_form_computes_the_same(monkeypatch):
    """Cells of 81 float maps, stages on one grid, dense labels."""
    torch.manual_seed(0)
    form = step_speed.PublishedFormNeck(
        projector=PROJECTOR, grid_stride=8, in_indices=(0, 1))
    ours = PublishedMaskGroundedNeck(
        projector=PROJECTOR, grid_stride=8, in_indices=(0, 1), num_ids=81)
    maps = torch.randint(0, 81, (2, 5, 6)).byte()
    maps = maps.repeat_interleave(5, 1).repeat_interleave(5, 2)
    assert torch.equal(form.cells(maps), ours.cells(maps))
    feats = torch.randn(2, 4, 8, 8), torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(form.fuse(feats, (4, 4)),
                               ours.fuse(feats, (4, 4)))
    case = random_case(0, unused=False, dtype=torch.float32)
    torch.testing.assert_close(step_speed.PublishedFormLoss()(*case),
                               MaskContrastiveLoss()(*case))


def test_views_fill_the_slots():
    """So that no step is measured that projects fewer regions."""
    cfg = step_speed.config_of('cyborgs', 50, 224)
    neck = step_speed.MODELS.build(dict(cfg.model.neck, projector=PROJECTOR))
    for sample in step_speed.draw_batch(4, 224)['data_samples']:
        used = neck.sample(neck.cells(sample.mask)) >= 0
        assert used.float().mean() > 0.9


@pytest.mark.slow
def test_what_gpu_check_asks_for():
    found = step_speed.measure(depth=18, size=64, batch=2, rounds=2,
                               amp='bfloat16', channels_last=True)
    assert found.keys() == {'byol_ms', 'cyborgs_ms', 'ratio', 'images_per_s',
                            'peak_mib'}
    assert 0.3 < found['ratio'] < 5
    assert found['images_per_s'] == pytest.approx(2e3 / found['cyborgs_ms'])
    assert 150 < found['peak_mib']['byol'] < found['peak_mib']['cyborgs'] < 600


@pytest.mark.slow
def test_parts_are_all_of_a_step():
    trainer = step_speed.Trainer('cyborgs', 18, 64, 2)
    trainer.watch()
    trainer.step()
    trainer.parts.clear()
    whole = trainer.timed_step()
    assert 0.7 * whole < sum(trainer.parts.values()) <= whole
    assert all(spent > 0 for spent in trainer.parts.values())
    assert {'online backbone', 'target backbone', 'backward of backbone',
            'backward of necks', 'backward of head', 'optimizer', 'loss',
            'target follows'} <= trainer.parts.keys()


@pytest.mark.slow
def test_it_counts_waits_and_prints_a_table(tmp_path):
    done = subprocess.run(
        [python(), step_speed.__file__, '--depth', '18', '--size', '64',
         '--batch', '2', '--rounds', '1'],
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=ROOT),
        cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    waits = dict(re.findall(
        r'([\w-]+): the host waits (\d+) times', done.stdout))
    assert waits.keys() == {'byol', 'cyborgs', 'in-step', 'published'}
    assert int(waits['in-step']) <= int(waits['cyborgs'])
    assert int(waits['cyborgs']) <= 8 < int(waits['published'])
    gain, = re.findall(r'outside of the backbones: ([\d.]+)', done.stdout)
    assert float(gain) > 1.3
    assert '| optimizer |' in done.stdout
    assert '| masks in the step |' in done.stdout
    part, = re.findall(r'making them is ([\d.]+)% of', done.stdout)
    assert 0 < float(part) < 20
    assert 'peak memory, MiB' in done.stdout


def test_what_is_no_size_is_refused(call):
    for option, value in (('--size', 40), ('--batch', 0), ('--rounds', 0)):
        with pytest.raises(SystemExit, match='--size a multiple of 32'):
            call(step_speed, option, value)
