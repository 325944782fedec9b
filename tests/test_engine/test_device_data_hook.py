"""Training with the photographs on the device."""
import copy
import os.path as osp
import re
import subprocess

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from cyborgs_plugin.datasets import MaskBank, image_io
from cyborgs_plugin.datasets.device_scenes import DeviceLoader
from cyborgs_plugin.engine import DeviceDataHook, MaskUpdateHook
from cyborgs_plugin.engine.config_options import merge_options
from cyborgs_plugin.engine.device_data_hook import free_bytes
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT, TOY, run_train, small_config, small_run
from ..warm_python import python

ON = {'default_hooks.device_data': dict(type='DeviceDataHook')}
BYOL = f'{ROOT}/configs/baselines/byol_r18_coco-mini.py'


class Keep(Hook):
    """Keeps the batches of each epoch."""

    def __init__(self):
        self.batches = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.batches.setdefault(runner.epoch, []).append(
            [view.clone() for view in data_batch['inputs']]
            + [torch.stack([sample.mask
                            for sample in data_batch['data_samples']])])


def kept(runner):
    hook = Keep()
    runner.register_hook(hook)
    runner.train()
    return hook.batches


def equal(one, two):
    return len(one) == len(two) and all(
        torch.equal(a, b) for first, second in zip(one, two)
        for a, b in zip(first, second))


def weights(runner):
    return runner.model.state_dict()


def test_resumed_in_mid_run_it_trains_as_uninterrupted(photo_root, tmp_path):
    epochs = {'train_cfg.max_epochs': 2}
    whole = small_run(photo_root, tmp_path / 'whole', **ON, **epochs)
    batches = kept(whole)
    assert isinstance(whole.train_loop.dataloader, DeviceLoader)
    assert list(batches) == [0, 1]
    assert not equal(batches[0], batches[1])
    resumed = small_run(
        photo_root, tmp_path / 'resumed', **ON, **epochs, **{
            'resume': True, 'load_from': str(tmp_path / 'whole' /
                                             'epoch_1.pth'),
            'default_hooks.mask_update.bank_root': str(
                tmp_path / 'whole' / 'masks')})
    again = kept(resumed)
    assert list(again) == [1]
    assert equal(batches[1], again[1])
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(resumed)[name], rtol=0,
                                   atol=0, msg=name)


def prepared(*args, **options):
    """A runner as it is when the hook has done its work."""
    runner = small_run(*args, **ON, **options)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    next(hook for hook in runner.hooks
         if isinstance(hook, DeviceDataHook)).before_train(runner)
    return runner


def test_rounds_read_no_file_again(photo_root, tmp_path, monkeypatch):
    """And make the same masks as from the disk."""
    read = []
    content = image_io._content
    monkeypatch.setattr(image_io, '_content',
                        lambda path, *args: read.append(path) or content(
                            path, *args))

    def labels(runner):
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(
            runner.optim_wrapper)
        runner._init_model_weights()
        runner.call_hook('before_train')
        return MaskBank.open(f'{runner.work_dir}/masks').hash

    first = labels(small_run(photo_root, tmp_path / 'held', **ON))
    assert len(read) == len(set(read)) == 12
    second = labels(small_run(photo_root, tmp_path / 'disk'))
    assert len(read) == 24 and first == second


def test_what_does_not_fit_is_loaded_as_ever(photo_root, tmp_path, capsys,
                                             monkeypatch):
    monkeypatch.setattr('cyborgs_plugin.engine.device_data_hook.free_bytes',
                        lambda device: 200_000)
    runner = prepared(photo_root, tmp_path / 'run')
    assert not isinstance(runner.train_loop.dataloader, DeviceLoader)
    told = capsys.readouterr().out
    assert 'needs 0.1 MB, 0.2 MB are free on cpu' in told
    assert 'may take 50%' in told
    monkeypatch.undo()
    capsys.readouterr()
    runner = prepared(photo_root, tmp_path / 'other')
    assert isinstance(runner.train_loop.dataloader, DeviceLoader)
    assert re.search(r'12 photographs of at most 144 pixels on the long side '
                     r'are on cpu: 0\.1 MB', capsys.readouterr().out)


def test_processes_that_cannot_hold_all_hold_parts(photo_root, tmp_path,
                                                   monkeypatch):
    at = 'cyborgs_plugin.engine.device_data_hook.'
    monkeypatch.setattr(f'{at}free_bytes', lambda device: 150_000)
    monkeypatch.setattr(f'{at}get_rank', lambda: 1)
    monkeypatch.setattr(f'{at}get_world_size', lambda: 2)
    loader = prepared(photo_root, tmp_path / 'run').train_loop.dataloader
    assert loader.held.num_bytes < 75_000 and len(loader.held.whole) == 6
    monkeypatch.setattr(f'{at}free_bytes', lambda device: 250_000)
    loader = prepared(photo_root, tmp_path / 'other').train_loop.dataloader
    assert len(loader.held.whole) == 12


@pytest.mark.parametrize('side, expected', [(640, 640), (96, 144)])
def test_mask_rounds_see_as_much_as_they_ask_for(photo_root, tmp_path, side,
                                                 expected):
    runner = prepared(photo_root, tmp_path / 'run', **{
        'default_hooks.mask_update.source.long_side': side})
    assert runner.train_loop.dataloader.held._side == expected


def test_it_comes_before_the_first_round(photo_root, tmp_path):
    runner = small_run(photo_root, tmp_path / 'run', **ON)
    kinds = [type(hook) for hook in runner.hooks]
    assert kinds.index(DeviceDataHook) < kinds.index(MaskUpdateHook)


def test_mask_rounds_ask_for_what_their_source_has_by_default(photo_root,
                                                              tmp_path):
    runner = prepared(photo_root, tmp_path / 'run', **{
        'default_hooks.mask_update.initial': dict(type='SuperpixelMasks')})
    assert runner.train_loop.dataloader.held._side == 640


def test_data_sets_that_draw_differently_are_refused(photo_root, tmp_path):
    def joined(change):
        cfg = small_config(photo_root, tmp_path / 'x')
        one = cfg.train_dataloader.dataset
        two = copy.deepcopy(one)
        change(two.pipeline[1].transforms[0][0])
        return {'train_dataloader.dataset': dict(
            _delete_=True, type='ConcatDataset', datasets=[one, two])}

    prepared(photo_root, tmp_path / 'same', **joined(lambda crop: None))
    with pytest.raises(UserError, match='one pipeline.*several'):
        prepared(photo_root, tmp_path / 'run', **joined(
            lambda crop: crop.update(scale=48)))


def test_a_run_that_is_resumed_elsewhere_is_told(photo_root, tmp_path,
                                                 capsys, monkeypatch):
    hook = DeviceDataHook()
    runner = prepared(photo_root, tmp_path / 'run')
    info = runner.message_hub.runtime_info
    assert info['photographs_on'] == 'the device'
    told = 'were on the device before this run was resumed'
    hook.before_train(runner)
    assert told not in capsys.readouterr().out
    monkeypatch.setattr('cyborgs_plugin.engine.device_data_hook.free_bytes',
                        lambda device: 1000)
    hook.before_train(runner)
    assert told in capsys.readouterr().out
    assert info['photographs_on'] == 'the disk'


def test_processes_share_the_memory_of_a_cpu(photo_root, tmp_path,
                                             monkeypatch):
    monkeypatch.setattr('cyborgs_plugin.engine.device_data_hook.free_bytes',
                        lambda device: 250_000)
    for processes, holds in ((1, True), (2, False)):
        monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
        loader = prepared(
            photo_root,
            tmp_path / str(processes)).train_loop.dataloader
        assert isinstance(loader, DeviceLoader) == holds


@pytest.mark.parametrize('options', [
    dict(source_side=0), dict(max_share=0.), dict(max_share=1.5)])
def test_options_are_checked(options):
    with pytest.raises(UserError, match=next(iter(options))):
        DeviceDataHook(**options)


def test_free_memory_is_told_in_bytes():
    free = free_bytes(torch.device('cpu'))
    assert 1e8 < free < 1e14
    with pytest.raises(UserError, match='meta'):
        free_bytes(torch.device('meta'))


@pytest.mark.parametrize('path', [TOY, f'{ROOT}/configs/cyborgs_coco.py',
                                  BYOL])
def test_one_option_for_every_recipe(path):
    cfg = Config.fromfile(path)
    merge_options(cfg, dict(data_on_device=True, **{
        'default_hooks.device_data.source_side': 128}))
    assert cfg.default_hooks.device_data == dict(
        type='DeviceDataHook', source_side=128)
    merge_options(cfg, dict(data_on_device=False))
    assert 'device_data' not in cfg.default_hooks
    with pytest.raises(UserError, match='expected True or False'):
        merge_options(cfg, dict(data_on_device='cuda'))


def test_colours_alone_are_one_option():
    cfg = Config.fromfile(TOY)
    merge_options(cfg, dict(colours_on_device=True))
    views = cfg.train_dataloader.dataset.pipeline[1].transforms
    assert [[step.type for step in view] for view in views] == [
        ['MaskedRandomResizedCrop', 'FastRandomFlip']] * 2
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.type == 'ColourDataPreprocessor'
    assert [view.blur for view in preprocessor.views] == [1., 0.1]
    merge_options(
        plain := Config.fromfile(TOY), dict(colours_on_device=False))
    assert plain.model.data_preprocessor.type == 'SceneDataPreprocessor'
    with pytest.raises(UserError, match='no views with colours'):
        merge_options(cfg, dict(colours_on_device=True))


@pytest.mark.slow
@pytest.mark.parametrize('options, told', [
    (['data_on_device=True'], '12 photographs of at most 358 pixels'),
    (['colours_on_device=True'], 'ColourDataPreprocessor'),
])
def test_a_run_from_the_command_line(photo_root, tmp_path, options, told):
    """358 = 2 * 80 / sqrt(0.2)."""
    done = run_train([
        '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options, *FEW,
        f'data={photo_root}'])
    log, = (tmp_path / 'run').glob('2*/2*.log')
    assert told in done.stdout + log.read_text()
    assert osp.isfile(tmp_path / 'run' / 'epoch_1.pth')


@pytest.mark.slow
def test_the_config_from_the_command_line(photo_root, tmp_path):
    done = subprocess.run(
        [python(), f'{ROOT}/tools/train.py',
         f'{ROOT}/configs/cyborgs_on_device.py', '--work-dir',
         str(tmp_path / 'run'), '--cfg-options', *FEW,
         f'data={photo_root}'],
        capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert '12 photographs of at most 358 pixels' in done.stdout + done.stderr
    assert osp.isfile(tmp_path / 'run' / 'epoch_1.pth')


FEW = ['train_cfg.max_epochs=1', 'view_size=80',
       'train_dataloader.batch_size=6',
       'default_hooks.mask_update.source.long_side=None']
