"""HealthHook: what a run says of itself, and each alarm, brought about."""
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from cyborgs_plugin.engine import HealthHook
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT, in_processes, small_config, small_run, write_photo

GRID = {
    'default_hooks.mask_update.interval': -1,
    'default_hooks.mask_update.initial': dict(type='GridMasks')
}


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp('photos')
    for number in range(12):
        size = (48, 64) if number % 3 else (64, 48)
        write_photo(root / 'train2017' / f'{number:02d}.png', size, number)
    return root


def health(work_dir):
    return json.loads((work_dir / 'health.json').read_text())


def untimed(record):
    for entry in record['epochs'] + record['rounds']:
        del entry['seconds']
    return record


@pytest.fixture(scope='module')
def healthy(photos, tmp_path_factory):
    """A run of three epochs, with a round before each."""
    work_dir = tmp_path_factory.mktemp('healthy') / 'w'
    runner = small_run(photos, work_dir)
    runner.train()
    return SimpleNamespace(work_dir=work_dir, runner=runner)


@pytest.mark.slow
def test_what_a_run_says(healthy):
    record = health(healthy.work_dir)
    assert record['schema'] == 1 and record['size'] == [32, 32]
    assert [entry['epoch'] for entry in record['epochs']] == [0, 1, 2, 3]
    assert [entry['iter'] for entry in record['epochs']] == [0, 3, 6, 9]
    vectors = {'image_rank', 'image_spread', 'image_cosine', 'region_rank',
               'region_spread', 'region_cosine', 'rank_kept',
               'pixel_contrast', 'seconds', 'epoch', 'iter'}
    assert set(record['epochs'][0]) == vectors
    assert set(record['epochs'][3]) == vectors | {
        'loss', 'contrast', 'chance', 'contrast_to_chance',
        'regions_per_view', 'matched_regions', 'target_change'}
    assert [entry['round'] for entry in record['rounds']] == [0, 1, 2]
    assert 'agreement' not in record['rounds'][0]
    assert 0 < record['rounds'][2]['agreement'] < 1
    assert record['alarms'] == []
    assert record['verdict'].startswith('after epoch 3: no alarm; loss')
    assert healthy.runner.model.training


@pytest.mark.slow
def test_means_are_those_of_the_steps(healthy):
    scalars, = healthy.work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    for entry in health(healthy.work_dir)['epochs'][1:]:
        for name, theirs in (('contrast', 'loss_contrast'),
                             ('chance', 'chance_level'),
                             ('regions_per_view', 'num_regions')):
            steps = healthy.runner.message_hub.get_scalar(
                f'train/{theirs}').data[0]
            assert len(steps) == 9
            own = steps[entry['iter'] - 3:entry['iter']]
            assert entry[name] == pytest.approx(np.mean(own), abs=1e-5)
        shown, = (line for line in lines if line['step'] == entry['iter']
                  and 'health/image_rank' in line)
        assert shown['health/image_rank'] == pytest.approx(
            entry['image_rank'], abs=1e-3)


@pytest.fixture
def killed(healthy, tmp_path):
    """The run as if killed after epoch 3 was measured, before it was saved."""
    work_dir = tmp_path / 'w'
    shutil.copytree(healthy.work_dir, work_dir)
    (work_dir / 'epoch_3.pth').unlink()
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    return work_dir


@pytest.mark.slow
def test_a_resumed_run_continues_the_file(healthy, photos, killed):
    small_run(photos, killed, resume=True).train()
    assert untimed(health(killed)) == untimed(health(healthy.work_dir))


@pytest.mark.slow
def test_measuring_changes_nothing(healthy, photos, killed):
    before = health(killed)
    runner = small_run(photos, killed, resume=True,
                       **{'default_hooks.health.interval': -1})
    runner.train()
    assert health(killed) == before
    measured = healthy.runner.model.state_dict()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, measured[name]), name


@pytest.mark.slow
def test_a_record_that_cannot_be_read_or_written(photos, killed, monkeypatch,
                                                 capfd):
    (killed / 'health.json').write_text('{"schema": 2}')

    def full(self):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('cyborgs_plugin.engine.health_hook.HealthRecord.write',
                        full)
    small_run(photos, killed, resume=True).train()
    said = capfd.readouterr().out
    assert 'is no record of health' in said and 'No space left' in said


def ill(photos, work_dir, error=None, **options):
    """Train; give the alarms by name, and the record."""
    cfg = small_config(photos, work_dir, **{
        'train_cfg.max_epochs': 1, **GRID, **options})
    for name in [name for name, hook in cfg.default_hooks.items()
                 if hook is None]:
        del cfg.default_hooks[name]
    runner = Runner.from_cfg(cfg)
    if error is None:
        runner.train()
    else:
        with pytest.raises(UserError, match=error):
            runner.train()
    record = health(work_dir)
    return {alarm['name']: alarm for alarm in record['alarms']}, record


@pytest.mark.slow
def test_a_rate_that_is_too_high(photos, tmp_path, capfd):
    alarms, record = ill(photos, tmp_path / 'w', **{
        'optim_wrapper.optimizer.lr': 1., 'param_scheduler': []})
    assert set(alarms) == {'collapse'}
    assert record['epochs'][1]['rank_kept'] < 0.2
    assert 'optim_wrapper.optimizer.lr' in alarms['collapse']['advice']
    assert 'collapse' in record['verdict']
    assert 'HEALTH, collapse' in capfd.readouterr().out


@pytest.mark.slow
def test_a_rate_of_zero(photos, tmp_path):
    alarms, record = ill(photos, tmp_path / 'w', **{
        'train_cfg.max_epochs': 2,
        'optim_wrapper.optimizer.lr': 0.,
        'model.backbone.norm_eval': True,
        'default_hooks.mask_update.interval': 1,
        'default_hooks.mask_update.initial': None,
        'default_hooks.health.bands': dict(steps=6)})
    assert set(alarms) == {'masks_stopped', 'learns_nothing', 'target_still'}
    assert record['rounds'][1]['agreement'] == 1
    assert alarms['learns_nothing']['epoch'] == 2
    assert 'did not improve' in record['verdict']


@pytest.mark.slow
def test_a_target_that_is_never_updated(photos, tmp_path):
    alarms, _ = ill(photos, tmp_path / 'w', **{
        'default_hooks.target_update': None})
    assert set(alarms) == {'target_still'}
    assert 'TargetUpdateHook' in alarms['target_still']['advice']


@pytest.mark.slow
def test_pictures_all_the_same(tmp_path):
    for number in range(12):
        write_photo(tmp_path / 'data' / 'train2017' / f'{number:02d}.png')
    alarms, _ = ill(tmp_path / 'data', tmp_path / 'w')
    assert 'pictures_alike' in alarms and 'collapse' not in alarms


@pytest.mark.slow
def test_one_region(photos, tmp_path):
    alarms, record = ill(photos, tmp_path / 'w', **{
        'default_hooks.mask_update.initial':
        dict(type='GridMasks', grid=(1, 1))})
    assert set(alarms) == {'one_region'}
    assert record['rounds'][0]['largest_region'] == 1
    assert len(record['alarms']) == 2  # of the round, and of what steps saw


@pytest.mark.slow
def test_nothing_matches(photos, tmp_path):
    crops = {
        f'train_dataloader.dataset.pipeline.1.transforms.{view}.0'
        '.crop_ratio_range': (0.005, 0.01) for view in (0, 1)}
    alarms, record = ill(photos, tmp_path / 'w', **crops, **{
        'default_hooks.mask_update.initial':
        dict(type='GridMasks', grid=(16, 16))})
    assert 'nothing_matched' in alarms
    assert record['epochs'][1]['matched_regions'] < 0.1


@pytest.mark.slow
def test_divergence(photos, tmp_path):
    alarms, record = ill(photos, tmp_path / 'w', 'training has diverged', **{
        'optim_wrapper.optimizer.lr': 1e30, 'param_scheduler': []})
    assert set(alarms) >= {'not_finite'}
    assert alarms['not_finite']['epoch'] == 1
    assert 'resume' in alarms['not_finite']['advice']
    assert json.dumps(record, allow_nan=False)


BASELINE = 'configs/baselines/{}_r18_coco-mini.py'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['byol', 'densecl'])
def test_methods_without_regions(name, photos, tmp_path):
    cfg = Config.fromfile(f'{ROOT}/{BASELINE.format(name)}')
    for view in cfg.train_dataloader.dataset.pipeline[1].transforms:
        view[0].scale = 32
    cfg.merge_from_dict({
        'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8,
        'model.neck.in_channels': 64, 'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.dataset.data_root': str(photos),
        'train_cfg.max_epochs': 1, 'work_dir': str(tmp_path / 'w'),
        'experiment_name': name})
    if name == 'densecl':
        cfg.model.queue_len = 8
    Runner.from_cfg(cfg).train()
    record = health(tmp_path / 'w')
    first, last = record['epochs']
    assert record['rounds'] == []
    assert first['image_rank'] > 1 and last['target_change'] > 0
    assert not any('region' in key for key in last)
    if name == 'densecl':
        assert last['chance'] == pytest.approx(math.log(9), abs=1e-5)
        assert 0.5 < last['contrast_to_chance'] < 2
    else:
        assert 'chance' not in last


def measure_as_rank(rank, work_dir):
    """An epoch of two steps, whose losses differ by rank."""
    init_default_scope('mmpretrain')
    hub = MessageHub.get_instance(f'rank{rank}')
    hook = HealthHook()
    runner = SimpleNamespace(
        work_dir=str(work_dir), iter=0, epoch=0, max_epochs=1,
        model=torch.nn.Linear(1, 1), message_hub=hub,
        logger=MMLogger.get_instance('x'),
        visualizer=SimpleNamespace(add_scalars=lambda *_, **__: None),
        train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=[])))
    hook._measures = True
    hook.record.path = str(work_dir / f'health{rank}.json')
    hook.before_train_epoch(runner)
    for step in range(2):
        hub.update_scalar('train/loss', 1. + 2 * step + 10 * rank)
        hook.after_train_iter(runner, step)
    hook.after_train_epoch(runner)
    hook.after_train(runner)


def test_of_several_ranks_one_writes_the_means_of_all(tmp_path):
    codes, said = in_processes(
        2, lambda rank: measure_as_rank(rank, tmp_path), tmp_path / 'log')
    assert codes == [0, 0], said
    assert [path.name for path in tmp_path.glob('*.json')] == ['health0.json']
    entry, = json.loads((tmp_path / 'health0.json').read_text())['epochs']
    assert entry['loss'] == (1 + 3 + 11 + 13) / 4


@pytest.mark.parametrize('settings, named', [
    (dict(interval=0), 'health.interval'),
    (dict(num_images=1), 'health.num_images'),
    (dict(num_clusters=1), 'health.num_clusters'),
    (dict(bands=dict(rank=3)), 'health.bands.*image_cosine')])
def test_wrong_settings(settings, named):
    with pytest.raises(UserError, match=named):
        HealthHook(**settings)
