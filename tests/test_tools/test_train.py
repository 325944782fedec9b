"""tools/train.py: its options, and whole runs in processes of their own."""
import errno
import fcntl
import os.path as osp
import re
import shutil
import sys
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from cyborgs_plugin.engine import (
    PretrainedCheckHook,
    config_checks,
    config_options,
)
from cyborgs_plugin.engine.config_checks import (
    check_data_root,
    check_keys,
    check_options,
)
from cyborgs_plugin.engine.config_options import merge_options, move_data
from cyborgs_plugin.errors import UserError

from ..helpers import RECIPE, ROOT, TOY, run_train, small, small_config

sys.path.insert(0, osp.join(ROOT, 'tools'))
import train  # noqa: E402


def config():
    return Config.fromfile(TOY)


@pytest.mark.parametrize('option, near', [
    ('modle.neck.num_regions', 'model'),
    ('train_dataloder.batch_size', 'train_dataloader'),
    ('dta', r'mean data\b(?!_)'),
    ('viewsize', 'mean view_size'),
    ('dataroot', 'mean data_root'),
    ('train_dataloader.batchsize', 'batch_size'),
    ('train_dataloader.prefetch_facter', 'mean prefetch_factor'),
    ('env_cfg.dist_cfg.time_out', 'mean timeout'),
    ('randomness.diff_rank_seeds', 'mean diff_rank_seed'),
    ('model.backbone.init_cfg', None),
    ('train_dataloader.dataset.pipeline.9.type', '2'),
])
def test_unknown_options_are_refused(option, near):
    if near is None:  # an argument of a component
        check_options(config(), {option: 1})
    else:
        with pytest.raises(ValueError, match=near):
            check_options(config(), {option: 1})


@pytest.mark.parametrize('key', [
    'data', 'data_root', 'load_from', 'model.backbone.init_cfg.checkpoint'])
def test_an_empty_path_is_refused(tmp_path, monkeypatch, key):
    """As a variable of the shell leaves it that is not set."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f'{key} is empty'):
        merge_options(config(), {key: ''})
    merge_options(config(), {'train_dataloader.dataset.ann_file': ''})


def test_an_empty_folder_and_an_empty_resume_are_refused(monkeypatch):
    for words, name in ((['--work-dir', ''], '--work-dir'),
                        (['--resume', ''], '--resume')):
        monkeypatch.setattr(sys, 'argv', ['train.py', TOY, *words])
        with pytest.raises(UserError, match=f'{name} is empty'):
            train.merge_args(config(), train.parse_args())


def test_known_options():
    check_options(
        config(), {
            'model.neck.num_regions': 3,
            'default_hooks.mask_update.initial': 'x',
            'find_unused_parameters': True,
            'load_from': 'x',
            'work_dir': 'x',
            'param_scheduler.0.end': 3,
            # what readers of open dicts take beside what the config sets
            'train_dataloader.prefetch_factor': 4,
            'randomness.diff_rank_seed': True,
            'compile.mode': 'x',
            'compile': True,
            'activation_checkpointing': ['backbone'],
            'efficient_conv_bn_eval': ['backbone'],
            'env_cfg.dist_cfg.timeout': 60
        })


@pytest.mark.parametrize('path', [TOY, RECIPE])
def test_all_that_torch_and_mmengine_take_is_known(path):
    cfg = Config.fromfile(path)
    for place, keys in config_checks._READERS.items():
        assert len(keys) > 1, place
        check_options(
            cfg, {f'{place}.{key}'.lstrip('.'): 1
                  for key in keys})
    assert {'prefetch_factor', 'timeout', 'num_batch_per_epoch'} <= (
        config_checks._READERS['train_dataloader'])


@pytest.mark.parametrize('wrapper, warned', [
    (dict(type='AmpOptimWrapper', dtype='bfloat16'), 1),
    (dict(type='AmpOptimWrapper', dtype='float16'), 0),
    (dict(type='OptimWrapper'), 0)])
def test_bfloat16_on_a_gpu_without_it(monkeypatch, wrapper, warned):
    told = []
    monkeypatch.setattr(train, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(train, 'warn_if_bfloat16_is_slow',
                        lambda remedy, device: told.append((remedy, device)))
    cfg = config()
    cfg.optim_wrapper.update(wrapper)
    train.check(cfg)
    assert told == [("Take optim_wrapper.dtype='float16'", 'cuda')] * warned


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    # the compiler itself takes a minute, and is torch's
    ['compile.backend=eager'],
    ['train_dataloader.prefetch_factor=4', 'train_dataloader.num_workers=1'],
    # of all, and of a part, whose copy would run the original
    ['activation_checkpointing=[backbone]'],
    ['activation_checkpointing=[backbone.layer1]'],
    ['efficient_conv_bn_eval=[backbone]'],
])
def test_options_of_the_runner_train(photo_root, tmp_path, options):
    done = run_train(small(photo_root, tmp_path / 'w', 1, *options))
    assert 'loss_contrast' in done.stdout
    assert (tmp_path / 'w' / 'epoch_1.pth').exists()


@pytest.mark.parametrize('key, meant', [
    ('train_dataloder', 'train_dataloader'),
    ('default_hook', 'default_hooks'),
    ('param_schedulers', 'param_scheduler'),
])
def test_misspelt_keys_of_a_config_are_refused(key, meant):
    cfg = config()
    check_keys(cfg)
    cfg[key] = dict()
    with pytest.raises(ValueError, match=f'{key}.*{meant}'):
        check_keys(cfg)


def test_detectors_need_the_ops_of_mmcv(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    path = tmp_path / 'detector.py'
    path.write_text("default_scope = 'mmdet'")
    monkeypatch.setattr(sys, 'argv', ['train.py', str(path)])
    with pytest.raises(SystemExit, match='onedl-mmcv'):
        train.main()


@pytest.mark.parametrize('device, kind', [
    ('cpu', 'mmpretrain.BFloat16OptimWrapper'),
    ('cuda', 'AmpOptimWrapper'),
    ('npu', 'AmpOptimWrapper'),
])
def test_mixed_precision(monkeypatch, device, kind):
    monkeypatch.setattr(sys, 'argv', ['train.py', TOY, '--amp'])
    monkeypatch.setattr(config_options, 'get_device', lambda: device)
    monkeypatch.setenv('LOCAL_RANK', '0')
    cfg = config()
    cfg.optim_wrapper.loss_scale = 512.  # of a config for a GPU
    train.merge_args(cfg, train.parse_args())
    assert cfg.optim_wrapper.type == kind
    assert ('loss_scale' in cfg.optim_wrapper) == (device != 'cpu')


def test_detectors_have_no_mixed_precision_on_a_cpu(monkeypatch):
    path = osp.join(ROOT, 'configs', 'transfer',
                    'mask-rcnn_r18_fpn_random_toy.py')
    monkeypatch.setattr(sys, 'argv', ['train.py', path, '--amp'])
    monkeypatch.setattr(config_options, 'get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='--amp .*_toy.py needs a GPU'):
        train.merge_args(Config.fromfile(path), train.parse_args())


def test_a_data_root_that_nothing_uses_is_refused(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text("_base_ = 'cyborgs_plugin::cyborgs_toy.py'\n"
                    "data_root = '/photos/'\n")
    with pytest.raises(ValueError, match='/photos/.* used by no data set'):
        check_data_root(Config.fromfile(path))
    path.write_text(path.read_text() +
                    'train_dataloader = dict(dataset=dict('
                    'data_root=data_root))\n')
    check_data_root(Config.fromfile(path))
    check_data_root(config())
    cfg = config()  # as a run on other photographs dumps it
    cfg.train_dataloader.dataset.data_root = '/elsewhere/'
    cfg.dump(path)
    check_data_root(Config.fromfile(path))


def test_the_next_command_can_be_copied(tmp_path, monkeypatch, capsys):
    work_dir = tmp_path / 'my run'
    (work_dir / 'masks').mkdir(parents=True)
    (work_dir / 'epoch_1.pth').touch()
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    monkeypatch.chdir(tmp_path)
    train.report(SimpleNamespace(work_dir=str(work_dir), log_dir=str(tmp_path),
                                 timestamp='now'))
    assert capsys.readouterr().out.splitlines()[-1].endswith(
        f"python -m cyborgs_plugin publish_backbone '{work_dir}/epoch_1.pth'")


def test_resuming_nothing_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', TOY, '--resume'])
    cfg = config()
    train.merge_args(cfg, train.parse_args())
    assert f'{tmp_path}/work_dirs' in cfg.work_dir  # wherever it is used
    assert 'starts over' in capsys.readouterr().out


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    config = tmp_path / 'own.py'
    small_config(tmp_path, tmp_path / 'w').dump(config)
    runner = SimpleNamespace(
        work_dir=str(tmp_path), rank=0, train=full, register_hook=print,
        log_dir=str(tmp_path), timestamp='now',
        hooks=[CheckpointHook(out_dir='/dev'), CheckpointHook()])
    monkeypatch.setattr(train.Runner, 'from_cfg', lambda cfg: runner)
    monkeypatch.setattr(train, 'check_batches', print)
    monkeypatch.setattr(sys, 'argv', [
        'train.py', str(config), '--work-dir', str(tmp_path / 'w')])
    with pytest.raises(SystemExit) as caught:
        train.main()
    free = shutil.disk_usage('/dev').free
    assert 'No space left on device' in str(caught.value)
    assert re.search(rf'{tmp_path} has \d+ bytes free, /dev has {free} bytes',
                     str(caught.value))
    assert 'max_keep_ckpts' in str(caught.value)


def test_a_work_dir_that_cannot_be_written_to(tmp_path, monkeypatch, call):
    """Found by the lock, or only as the Runner is built."""
    small_config(tmp_path, tmp_path / 'w').dump(tmp_path / 'own.py')
    (tmp_path / 'file').touch()
    monkeypatch.setattr(train.Runner, 'from_cfg', failing(
        OSError(errno.EROFS, 'Read-only', str(tmp_path / 'w' / 'x.py'))))
    for folder, why in (('file', 'File exists'), ('file/w', 'Not a directory'),
                        ('w', 'Read-only')):
        with pytest.raises(SystemExit, match=why) as caught:
            call(train, tmp_path / 'own.py', '--work-dir', tmp_path / folder)
        assert f'{tmp_path / folder} cannot be' in caught.value.code
        assert '\n' not in caught.value.code


def test_a_disk_without_locks_trains(tmp_path, monkeypatch, call):
    small_config(tmp_path, tmp_path / 'w').dump(tmp_path / 'own.py')
    monkeypatch.setattr(fcntl, 'lockf', failing(
        OSError(errno.ENOSYS, 'Function not implemented')))
    monkeypatch.setattr(train.Runner, 'from_cfg', failing(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):  # what comes after the lock
        call(train, tmp_path / 'own.py', '--work-dir', tmp_path / 'w')


def test_the_check_of_the_config_is_told_to_trust(tmp_path, monkeypatch, call):
    small_config(tmp_path, tmp_path / 'w').dump(tmp_path / 'own.py')
    hook = PretrainedCheckHook()
    runner = SimpleNamespace(
        work_dir=str(tmp_path), rank=1, train=print, hooks=[hook],
        register_hook=lambda other: runner.hooks.append(other))
    monkeypatch.setattr(train.Runner, 'from_cfg', lambda cfg: runner)
    monkeypatch.setattr(train, 'check_batches', print)
    for options, trusted in (((), False), (('--trust-checkpoint', ), True)):
        call(train, tmp_path / 'own.py', '--work-dir', tmp_path / 'w',
             *options)
        assert hook.trust_checkpoint is trusted
    assert sum(isinstance(h, PretrainedCheckHook) for h in runner.hooks) == 1


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_data_root_moves_the_data():
    cfg = config()
    move_data(cfg, cfg.data_root, '/elsewhere')
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere/'
    cfg = Config.fromfile(
        osp.join(ROOT, 'configs', 'transfer',
                 'mask-rcnn_r18_fpn_random_toy.py'))
    move_data(cfg, cfg.data_root, '/elsewhere')
    assert cfg.val_evaluator.ann_file == (
        '/elsewhere/annotations/instances_val2017.json')
    with pytest.raises(ValueError, match='data_root'):
        move_data(cfg, 'no/such/root', '/x')


WATCH = """
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS, TRANSFORMS
from cyborgs_plugin.datasets import MaskedMultiView


@TRANSFORMS.register_module(force=True)
class TellIds(MaskedMultiView):
    def transform(self, results):
        with open('{log}', 'a') as file:
            file.write(f"{{results['img_path'][-6:]}} "
                       f"{{results['gt_seg_map'].tobytes().hex()}}\\n")
        return super().transform(results)
"""


@pytest.mark.slow
def test_persistent_workers_see_the_next_round(photo_root, tmp_path,
                                               monkeypatch):
    """Two workers write down the label maps that they really read."""
    from cyborgs_plugin.datasets import MaskBank
    from cyborgs_plugin.datasets.mask_bank import round_path
    log, module = tmp_path / 'seen.txt', tmp_path / 'watch_labels.py'
    module.write_text(WATCH.format(log=log))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    run_train(
        small(
            photo_root, tmp_path / 'w', 2, 'train_dataloader.num_workers=2',
            'train_dataloader.persistent_workers=True',
            'train_dataloader.dataset.pipeline.1.type=TellIds',
            'custom_imports.imports=[cyborgs_plugin,watch_labels]'))
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 24  # 12 pictures, 2 epochs
    banks = [
        MaskBank.open(round_path(str(tmp_path / 'w' / 'masks'), number))
        for number in range(2)
    ]
    expected = [{
        (key[-6:], bank.label_map(key).tobytes().hex())
        for key in bank.keys()
    } for bank in banks]
    assert expected[0] != expected[1]
    assert {tuple(line) for line in lines[:12]} == expected[0]
    assert {tuple(line) for line in lines[12:]} == expected[1]


@pytest.mark.slow
def test_two_processes_on_gloo_make_the_same_masks(photo_root, tmp_path):
    from cyborgs_plugin.datasets import MaskBank
    hashes = []
    for number, launcher in enumerate(
        [(), ('-m', 'torch.distributed.run', '--nproc_per_node=2',
              '--standalone')]):
        work_dir = tmp_path / str(number)
        done = run_train(
            small(photo_root, work_dir, 1, 'train_dataloader.num_workers=0',
                  'default_hooks.mask_update.group_size=4',
                  # the round's seed is that of rank 0
                  'randomness.diff_rank_seed=True',
                  'env_cfg.dist_cfg.timeout=600') +
            (['--launcher', 'pytorch'] if launcher else []), launcher)
        hashes.append(
            MaskBank.open(str(work_dir / 'masks' / 'round_0000')).hash)
        assert (work_dir / 'epoch_1.pth').exists()
    assert 'gloo' in done.stdout and 'loss_contrast' in done.stdout
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_resume_and_user_errors(photo_root, tmp_path):
    run_train(small(photo_root, tmp_path / 'w', 2))
    done = run_train(small(photo_root, tmp_path / 'w', 3) + ['--resume'])
    assert 'Continuing with mask round 1' in done.stdout
    assert 'publish_backbone.py' in done.stdout
    assert (tmp_path / 'w' / 'epoch_3.pth').exists()
    for arguments, said in (
        (small(tmp_path / 'nowhere', tmp_path / 'x', 1), 'does not exist'),
        (small(photo_root, tmp_path / 'x', 1, 'modle.x=1'), 'did you mean'),
        (small(photo_root, tmp_path / 'x', 1,
               'default_hooks.mask_update.source.layer=layer2.7'),
         'layer2.1')):
        done = run_train(arguments, check=False)
        assert done.returncode == 1
        assert said in done.stdout and 'Traceback' not in done.stdout
