"""The smoke budget on toy scenes, twice: the second time nothing runs."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..warm_python import python

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'benchmarks' / 'mini_coco.py'


def run(*arguments):
    return subprocess.run([python(), str(TOOL), *map(str, arguments)],
                          cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)


@pytest.mark.slow
def test_smoke(tmp_path):
    from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
    make_toy_scenes(str(tmp_path / 'toy'), num_train=20, num_val=8)
    work = tmp_path / 'work'
    arguments = ('--data-root', tmp_path / 'toy', '--budget', 'smoke',
                 '--work-dir', work, '--steps', 4)
    first = run(*arguments)
    assert first.returncode == 0, first.stdout[-4000:]
    results = json.loads((work / 'results.json').read_text())
    assert {run['method'] for run in results['runs'].values()} == {
        'random', 'cyborgs', 'cyborgs-in-step', 'detcon-fh', 'byol',
        'densecl', 'cyborgs-oracle', 'cyborgs-annotated'
    }
    for name, found in results['runs'].items():
        last = found['points'][str(found['epochs'][-1])]
        assert 0 < last['regions']['accuracy'] <= 1, name
        for floor in results['floors'].values():
            assert set(last['masks']) == set(floor), name
        if found['method'] != 'random':
            assert found['loss'] and len(found['epochs']) == 2, name
    assert list(results['floors']) == ['colour and position', 'superpixels',
                                       'superpixels merged']
    for title in results['floors']:
        assert f'| {title} |' in first.stdout
        assert f'mBO at K=8, above {title}: ' in first.stdout
    rounds = results['runs']['cyborgs_s0']['rounds']
    assert len(rounds) == 2 and rounds[0][0] == 0
    for name in ('table.md', 'masks_by_round.png', 'probes_by_epoch.png',
                 'loss.png', 'masks.png'):
        assert (work / name).stat().st_size > 0
    published = subprocess.run(  # what transfer.sh begins with
        [python(), 'tools/model_converters/publish_backbone.py',
         max((work / 'byol_s0').glob('backbone_*.pth'))],
        cwd=ROOT, text=True, capture_output=True, check=False)
    assert 'Wrote' in published.stdout, published.stderr
    second = run(*arguments)
    assert second.returncode == 0, second.stdout[-4000:]
    assert second.stdout.count('done before') == len(results['runs'])
    assert 'train.py' not in second.stdout
    again = json.loads((work / 'results.json').read_text())
    assert again['runs'] == results['runs']
    # other settings in the same folder are refused, not mixed
    other = run(*arguments, '--steps', 24, '--methods', 'byol')
    assert other.returncode != 0 and 'other settings' in other.stdout


@pytest.mark.slow
def test_a_folder_that_is_no_coco(tmp_path):
    refused = run('--data-root', tmp_path, '--work-dir', tmp_path / 'work')
    assert refused.returncode == 1
    assert 'make_toy_scenes.py' in refused.stdout
    assert 'Traceback' not in refused.stdout


@pytest.mark.slow
def test_a_teacher(tmp_path, monkeypatch):
    import torch
    from torchvision.models import mobilenet_v2

    from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
    make_toy_scenes(str(tmp_path / 'toy'), num_train=20, num_val=8)
    torch.manual_seed(0)
    torch.save(
        mobilenet_v2(weights=None).state_dict(), tmp_path / 'teacher.pth')
    work = tmp_path / 'work'
    arguments = ('--data-root', tmp_path / 'toy', '--budget', 'smoke',
                 '--work-dir', work, '--methods', 'distill', '--steps', 4,
                 '--phases', 1)
    monkeypatch.setenv('TEACHER', str(tmp_path / 'nowhere.pth'))
    missing = run(*arguments)
    assert missing.returncode != 0 and 'nowhere.pth' in missing.stdout
    monkeypatch.setenv('TEACHER', str(tmp_path / 'teacher.pth'))
    found = run(*arguments, '--work-dir', tmp_path / 'again')
    assert found.returncode == 0, found.stdout[-4000:]
    results = json.loads((tmp_path / 'again' / 'results.json').read_text())
    point, = results['runs']['distill_s0']['points'].values()
    assert 0 < point['regions']['accuracy'] <= 1


def test_a_start_is_scored_as_it_comes(tmp_path, monkeypatch):
    import torch
    from torchvision.models import resnet18

    from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
    sys.path.insert(0, str(TOOL.parent))
    import mini_coco
    import mini_coco_train
    make_toy_scenes(str(tmp_path / 'toy'), num_train=12, num_val=2)
    torch.manual_seed(0)
    state = resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / 'r18.pth')
    monkeypatch.setenv('START', str(tmp_path / 'r18.pth'))
    monkeypatch.setattr(sys, 'argv', [
        'mini_coco.py', '--data-root', str(tmp_path / 'toy'), '--work-dir',
        str(tmp_path / 'work')])
    runs = mini_coco_train.Trainings(mini_coco.parse_args())
    done = runs.train('start', 0)
    file, = done['phases']
    found = torch.load(file, weights_only=False)['state_dict']
    for name in ('conv1.weight', 'layer4.1.bn2.running_var'):
        assert torch.equal(found[f'backbone.{name}'], state[name])
    cfg = runs.config('continue', 1)
    assert cfg.model.backbone.norm_eval and cfg.randomness.seed == 1
    assert cfg.train_cfg.max_epochs == 12  # of 12 steps, an image's batch
