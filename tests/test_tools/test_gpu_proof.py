"""The proof of minutes: what is planned, run on a CPU, and compared."""
import json
import os.path as osp
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cyborgs_plugin.errors import UserError

from ..helpers import ROOT
from ..warm_python import python

BENCHMARKS = osp.join(ROOT, 'tools', 'benchmarks')
sys.path.insert(0, BENCHMARKS)
import gpu_proof  # noqa: E402
import gpu_proof_plan as plans  # noqa: E402

METHODS = ['cyborgs', 'byol']


def speed(at_once=1):
    return plans.Speed(
        dict(
            cyborgs=plans.RunSpeed(step=0.5, image=0.1, start=10.),
            byol=plans.RunSpeed(step=0.4, image=0., start=5.)), 20, 100,
        at_once, 7.)


@pytest.mark.parametrize('seconds, seeds, at_once, phases, found', [
    # two seeds: epochs of 36 s, rounds of 20, starts of 30
    (30 + 3 * 20 + 7 * 36, 2, 1, 3, (6 * 20, 3)),
    (30 + 3 * 20 + 6 * 36 - 1, 2, 1, 3, (3 * 20, 3)),
    (30 + 2 * 20 + 2 * 36, 2, 1, 3, (2 * 20, 2)),
    (30 + 20 + 36, 2, 1, 3, (20, 1)),
    ((30 + 3 * 20 + 6 * 36) / 4, 2, 4, 3, (6 * 20, 3)),
    (15 + 10 + 18, 1, 1, 3, (20, 1)),
])
def test_the_longest_equal_runs_that_fit(seconds, seeds, at_once, phases,
                                         found):
    plan = plans.make_plan(speed(at_once), METHODS, seeds, seconds, phases)
    assert (plan.steps, plan.phases) == found
    assert plan.seconds <= seconds and plan.at_once == at_once
    assert plan.runs == [(method, seed) for seed in range(seeds)
                         for method in METHODS]


@pytest.mark.parametrize('most, found', [
    (1, (20, 1)), (2, (40, 2)), (4, (3 * 20, 3)), (7, (6 * 20, 3))])
def test_no_more_epochs_than_asked_for(most, found):
    plan = plans.make_plan(speed(), METHODS, 2, 1e5, 3, most)
    assert (plan.steps, plan.phases) == found


def test_too_few_minutes_are_refused_with_what_is_needed():
    with pytest.raises(UserError, match='43 s.*--minutes'):
        plans.make_plan(speed(), METHODS, 1, 42, 3)


def run(method, seed, value):
    return dict(method=method, seed=seed, epochs=[1, 2], points={
        '1': dict(regions=dict(accuracy=9.)),
        '2': dict(regions=dict(accuracy=value),
                  masks={'8': dict(mBO=2 * value, ARI=0.)})})


def results(*runs):
    return dict(runs={str(i): run(*one) for i, one in enumerate(runs)})


def test_seeds_are_compared_one_by_one():
    """By the last network; a seed that one of them lacks is left out."""
    found = plans.paired_table(results(
        ('cyborgs', 0, 0.5), ('byol', 0, 0.1), ('byol', 1, 0.3),
        ('cyborgs', 1, 0.6), ('byol', 2, 0.9), ('densecl', 1, 0.4)))
    steps = np.array([0.4, 0.3])
    assert found.differences['byol']['regions'] == pytest.approx(
        (steps.mean(), steps.std(ddof=1) / np.sqrt(2)))
    assert found.differences['byol']['mBO, K=8'] == pytest.approx(
        (0.7, 2 * steps.std(ddof=1) / np.sqrt(2)))
    mean, error = found.differences['densecl']['regions']
    assert mean == pytest.approx(0.2) and np.isnan(error)
    lines = found.text.splitlines()
    assert len(lines) == 4 and all(
        line.count('|') == lines[0].count('|') for line in lines)
    assert '| byol | 2 | +0.350 ± 0.050 | +0.700 ± 0.100 |' in found.text
    assert '| densecl | 1 | +0.200 |' in found.text


def test_a_folder_without_results(tmp_path, call):
    with pytest.raises(SystemExit, match='results.json has no scored run'):
        call(gpu_proof, 'score', tmp_path)


def test_results_of_an_earlier_version(tmp_path, call):
    (tmp_path / 'results.json').write_text(json.dumps(
        dict(results(('cyborgs', 0, 0.5)), floor={})))
    with pytest.raises(SystemExit, match='give the `train` command again'):
        call(gpu_proof, 'score', tmp_path)


def section(title):
    """A section of docs/results.md, without what is bold."""
    text = (Path(ROOT) / 'docs' / 'results.md').read_text(encoding='utf-8')
    return text.split(f'### {title}\n')[1].split('\n###')[0].replace(
        '**', '')


def test_the_table_in_the_docs_is_that_of_the_json(tmp_path, call):
    shutil.copy(Path(ROOT) / 'docs' / 'results' / 'seeds_coco_mini.json',
                tmp_path / 'results.json')
    said, text = call(gpu_proof, 'score', tmp_path), section('Seed by seed')
    for name, title in (('random', 'random weights'), ('cyborgs', 'CYBORGS'),
                        ('superpixels', 'superpixels, no network in masks'),
                        ('detcon-fh', 'DetCon-B, Felzenszwalb masks')):
        probes = re.search(
            rf'^\| {name} \| \d[^|]*\|((?:[^|]*\|){{3}})', said, re.M)[1]
        assert f'| {title} |{probes}' in text
    for name, title, seeds in (('random', 'random', 5),
                               ('detcon-fh', 'DetCon', 5)):
        less = re.search(
            rf'^\| {name} \| {seeds} \|((?:[^|]*\|){{3}})', said, re.M)[1]
        assert f'| CYBORGS less {title} |{less}' in text


@pytest.mark.parametrize('title, names', [
    ('Seed by seed', ['seeds_cells_coco_mini']),
    ('Longer, seed by seed', ['longer_on_a_gpu', 'longer_seeds_coco_mini'])])
def test_the_tables_of_cells_are_those_of_their_jsons(title, names):
    runs = {}
    for name in names:
        content = json.loads((
            Path(ROOT) / 'docs' / 'results' / f'{name}.json').read_text())
        for key, run in content['runs'].items():
            point = run['points'][max(run['points'], key=int)]
            runs[key if '_s' in key else f'{key}_s0'] = [
                point['regions']['accuracy'], point['segments']['mIoU'],
                point['images']['mAP'], point['masks']['8']['mBO'],
                point['masks']['8']['ARI']]
    ours, theirs = (
        np.array([runs[f'{name}_s{seed}'] for seed in range(3)]).T
        for name in ('cyborgs-cells', 'detcon-fh'))
    text = section(title)
    for row, scores in (('CYBORGS, cells', ours),
                        ('DetCon-B, Felzenszwalb masks', theirs)):
        cells = [f'{each.mean():.3f} ({", ".join(map("{:.3f}".format, each))})'
                 for each in scores[:3]]
        cells += [f'{each.mean():.3f}' for each in scores[3:]]
        assert f'| {row} | {" | ".join(cells)} |' in text
    cells = [f'{each.mean():+.3f} ± {each.std(ddof=1) / 3**.5:.3f}'
             for each in ours - theirs]
    assert f'| CYBORGS, cells, less DetCon | {" | ".join(cells)} |' in text


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so(tmp_path, call):
    with pytest.raises(SystemExit, match='no CUDA GPU here: give --device'):
        call(gpu_proof, 'train', '--data-root', tmp_path, '--out',
             tmp_path / 'out')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_trains_and_scores_on_a_cpu(tmp_path):
    from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
    make_toy_scenes(str(tmp_path / 'toy'), num_train=24, num_val=12)

    def proof(*arguments):
        return subprocess.run(
            [python(), osp.join(BENCHMARKS, 'gpu_proof.py'),
             *map(str, arguments)],
            capture_output=True, text=True, timeout=1800)

    out, runs = tmp_path / 'proof', tmp_path / 'runs'
    arguments = [
        'train', '--device', 'cpu', '--data-root', tmp_path / 'toy', '--out',
        out, '--work-dir', runs, '--view-size', 64, '--batch-size', 8,
        '--seeds', 1, '--phases', 1, '--max-eval-images', 8, '--methods',
        'cyborgs', 'detcon-fh', '--max-epochs', 1]
    few = proof(*arguments, '--minutes', 0.01)
    assert few.returncode == 1 and '--minutes' in few.stderr
    assert 'Traceback' not in few.stderr and not out.exists()
    done = proof(*arguments, '--minutes', 24)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((out / 'results.json').read_text())
    assert found['runs'].keys() == {'random_s0', 'cyborgs_s0', 'detcon-fh_s0'}
    counts = {run['steps'][-1] for name, run in found['runs'].items()
              if name != 'random_s0'}
    assert len(counts) == 1 and counts.pop() > 0
    assert 0 < found['paired']['detcon-fh']['regions'][0] + 1 < 2
    # as mini_coco.py scores the same backbone
    import gpu_proof_work as work
    from mini_coco_score import Scores
    settings = work.Settings(
        str(tmp_path / 'toy'), str(tmp_path / 'again'), 4, 1, 64, 8, 18, None,
        8, False, False)
    scores = Scores(work.Runs(settings))
    name, = found['runs']['cyborgs_s0']['points']
    backbone, = (runs / 'runs' / 'cyborgs_s0').glob('backbone_*.pth')
    judged = scores.judge('cyborgs', 0, dict(
        folder=str(tmp_path), phases=[str(backbone)], epochs=[int(name)]))
    for kind in ('regions', 'segments', 'images', 'masks'):
        assert judged[name][kind] == found['runs']['cyborgs_s0']['points'][
            name][kind]
    # the same command trains nothing again; another is refused
    again = proof(*arguments, '--minutes', 24)
    assert again.returncode == 0 and 'trained cyborgs_s0' in again.stdout
    assert json.loads((out / 'results.json').read_text())[
        'runs'] == found['runs']
    other = proof(*arguments, '--minutes', 24, '--phases', 2)
    assert other.returncode == 1 and 'another --work-dir' in other.stderr
    # another method is added to them, of as many steps
    more = proof(*arguments, '--minutes', 24, '--methods', 'superpixels')
    assert more.returncode == 0, more.stderr[-3000:]
    added = json.loads((out / 'results.json').read_text())['runs']
    assert added.keys() == {*found['runs'], 'superpixels_s0'}
    assert added['superpixels_s0']['steps'] == added['cyborgs_s0']['steps']
    assert {name: added[name] for name in found['runs']} == found['runs']
    # what leaves the machine is small, and scored again anywhere
    files = list(out.iterdir())
    assert len(files) <= 8 and sum(f.stat().st_size for f in files) < 2e6
    told = proof('score', out)
    assert told.returncode == 0 and '| detcon-fh | 1 |' in told.stdout
