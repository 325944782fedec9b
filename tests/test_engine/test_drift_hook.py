"""DriftHook: how far a run is from the weights it started from."""
import json

import pytest
import torch

from cyborgs_plugin.engine import DriftHook
from cyborgs_plugin.errors import UserError

from ..helpers import small_run

HOOK = dict(type='DriftHook', num_images=8, long_side=64)


def run(photo_root, work_dir, **options):
    return small_run(
        photo_root, work_dir, **{
            'custom_hooks': [HOOK],
            'default_hooks.mask_update.interval': -1,
            **options
        })


def scalars(work_dir):
    path, = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if 'drift/cka' in line]


def test_what_a_run_says(photo_root, tmp_path, capfd):
    runner = run(photo_root, tmp_path / 'w', **{'train_cfg.max_epochs': 2})
    runner.train()
    assert runner.model.training
    said = scalars(tmp_path / 'w')
    assert len(said) == 2
    assert 0 < said[1]['drift/cka'] < 1
    assert said[1]['drift/cka'] < said[0]['drift/cka']
    assert said[1]['drift/recovered'] < 1
    assert said[1]['drift/drift'] == pytest.approx(
        1 - min(said[1][f'drift/cosine_{n}'] for n in range(3)), abs=1e-4)
    assert 'Drift from the start' in capfd.readouterr().out


def test_warns_once_and_names_the_fix(photo_root, tmp_path, capfd):
    def warnings(folder, **hook):
        run(photo_root, tmp_path / folder, **{
            'train_cfg.max_epochs': 2, 'custom_hooks': [dict(HOOK, **hook)]
        }).train()
        return capfd.readouterr().out.count(
            'DriftHook.max_drift=')

    assert warnings('a', max_drift=0.) == 1
    assert warnings('b', max_drift=2.) == 0
    assert DriftHook().max_drift == 0.3


def test_nothing_moves_at_a_rate_of_zero(photo_root, tmp_path):
    runner = run(
        photo_root, tmp_path / 'w', **{
            'train_cfg.max_epochs': 1,
            'optim_wrapper.optimizer.lr': 0.,
            'optim_wrapper.optimizer.weight_decay': 0.,
            'model.backbone.norm_eval': True
        })
    runner.train()
    said, = scalars(tmp_path / 'w')
    for name in ('cka', 'cosine_0', 'cosine_2'):
        assert said[f'drift/{name}'] == pytest.approx(1, abs=1e-5)
    assert said['drift/rank'] == pytest.approx(said['drift/start_rank'])


@pytest.mark.slow
def test_a_resumed_run_measures_from_the_first_start(photo_root, tmp_path,
                                                     capfd):
    run(photo_root, tmp_path / 'a', **{'train_cfg.max_epochs': 1}).train()
    file = tmp_path / 'a' / 'start_features.npz'
    before = file.read_bytes()
    options = {
        'train_cfg.max_epochs': 2,
        'resume': True,
        'custom_hooks': [dict(HOOK, max_drift=0.)]
    }
    runner = run(photo_root, tmp_path / 'a', **options)
    runner.train()
    assert file.read_bytes() == before
    assert 'cyborgs_plugin::cyborgs_continue.py' in capfd.readouterr().out
    file.unlink()
    options['train_cfg.max_epochs'] = 3
    run(photo_root, tmp_path / 'a', **options).train()
    assert 'start_features.npz' in capfd.readouterr().out


def test_wrong_settings():
    with pytest.raises(UserError, match='interval'):
        DriftHook(interval=0)
    with pytest.raises(UserError, match='max_drift must be 0 or more.*-1'):
        DriftHook(max_drift=-1.)
    with pytest.raises(UserError, match='num_images'):
        DriftHook(num_images=1)


def test_modes_of_modules_come_back(photo_root, tmp_path):
    """Frozen stages and kept batch norms are in evaluation mode by choice."""
    runner = run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1,
        'model.backbone.norm_eval': True
    })
    runner.train()
    norms = [
        module.training for module in runner.model.backbone.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    assert norms and not any(norms)
