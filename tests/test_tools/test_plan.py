"""The reckoning of a run's cost, against sums done by hand."""
import json
import os.path as osp
import sys

import pytest

from cyborgs_plugin.errors import UserError

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import plan  # noqa: E402


def machine(**changes):
    return plan.Machine(**(dict(
        step=0.25, batch=16, pipeline=64., gpus=8, round=0.01) | changes))


def test_coco_in_800_epochs():
    """118,287 images are 924 batches of 128, as often as there are epochs."""
    found = plan.plan(machine(), 800)
    assert found.steps == 924 * 800 == 739200
    assert found.step_hours == pytest.approx(739200 * 0.25 / 3600)
    # rounds before epochs 1, 101, ..., 701, shared by the processes
    assert found.rounds == 8
    assert found.round_hours == pytest.approx(8 * 118287 * 0.01 / 8 / 3600)
    assert found.gpu_hours == pytest.approx(
        8 * (found.step_hours + found.round_hours))
    # 16 images in a quarter of a second are 64 a second: what a core makes
    assert found.cores == 1 and found.waiting == 0


@pytest.mark.parametrize('epochs, interval, rounds', [
    (100, 100, 1), (101, 100, 2), (99, 100, 1), (800, -1, 1), (10, 3, 4)])
def test_rounds_of_a_run(epochs, interval, rounds):
    assert plan.plan(machine(), epochs, interval=interval).rounds == rounds


def test_a_loader_that_holds_the_gpu_back():
    """A fifth of a core gives a batch every 1.25 s."""
    slow = plan.plan(machine(cores=0.2), 100)
    assert slow.waiting == pytest.approx(0.8)
    assert slow.step_hours == pytest.approx(924 * 100 * 1.25 / 3600)
    assert plan.plan(machine(cores=2), 100).waiting == 0


def test_less_than_a_batch():
    with pytest.raises(UserError, match='100 images are less than a batch'):
        plan.plan(machine(), 3, images=100)


def test_the_table(call, tmp_path):
    said = call(plan, '--step', 0.25, '--batch', 16, '--pipeline', 64)
    rows = [line.split(' | ') for line in said.splitlines()
            if line[:3] in ('| 1', '| 8')]
    assert [row[:2] for row in rows] == [['| 100', '92,400'],
                                         ['| 800', '739,200']]
    assert rows[1][2] == '51.3' and rows[1][4] == '411'
    short = call(plan, '--step', 0.05, '--batch', 32, '--pipeline', 1e4,
                 '--round', 0.0033, '--images', 3000, '--gpus', 1,
                 '--epochs', 18, '--interval', 3)
    assert '| 18 | 1,674 | 0.04 | 0.02 (6) | 0.04 |' in short
    (tmp_path / 'c.json').write_text(json.dumps(dict(
        plan=dict(step=0.5, batch=16, pipeline=64., round=0.02))))
    said = call(plan, '--check', tmp_path / 'c.json', '--step', 0.25,
                '--epochs', 800, '--cores', 0.5)
    assert '0.25 s per step' in said and '0.02 s per image' in said
    assert 'With 0.5 cores per GPU the loader holds it back: 1.0 would' in said


@pytest.mark.parametrize('words, said', [
    (['--step', '1'], '--batch, --pipeline must be given'),
    (['--check', 'nowhere.json'], 'no such file'),
    (['--check', __file__], 'expected what make gpu-check writes'),
    (['--step', '1', '--batch', '0', '--pipeline', '1'], 'batch'),
    (['--step', '1', '--batch', '1', '--pipeline', '1', '--gpus', '0'],
     'at least 1')])
def test_what_is_missing_is_named(call, words, said):
    with pytest.raises(SystemExit, match=said):
        call(plan, *words)
