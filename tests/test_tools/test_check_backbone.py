"""Weights to start from: by check_backbone.py and in whole runs."""
import glob
import os.path as osp
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from safetensors import safe_open

from cyborgs_plugin.transfer.annotation_check import check_config
from cyborgs_plugin.transfer.recipe_check import check_recipe

from ..helpers import (
    LINEAR,
    ROOT,
    TOY,
    published,
    run_train,
    small,
    trained,
)

sys.path.insert(0, osp.join(ROOT, 'tools', 'model_converters'))
import check_backbone  # noqa: E402
import publish_backbone  # noqa: E402

TRANSFER = sorted(
    glob.glob(osp.join(ROOT, 'configs', 'transfer', '*.py')))
INIT = 'model.backbone.init_cfg'


@pytest.mark.parametrize('path', TRANSFER, ids=osp.basename)
def test_shipped_configs_do_as_the_pretraining(path, tmp_path, monkeypatch):
    """Without data, and with a file that says how it was trained."""
    file = str(tmp_path / 'backbone.pth')
    name, _, _ = osp.basename(path).replace('-ins', '').replace(
        'faster-rcnn_cspnext-tiny_fpn', 'rtmdet_tiny').replace(
            '_class-agnostic', '_cyborgs-pre').partition('_cyborgs-pre')
    own = osp.join(ROOT, 'configs', 'backbones', f'{name}.py')
    has_own = osp.isfile(own)
    text = Config.fromfile(own if has_own else TOY).pretty_text
    torch.save(dict(state_dict={}, meta=dict(config=text)), file)
    monkeypatch.setenv('BACKBONE', file)
    cfg = Config.fromfile(path)
    if '_toy.py' in path and cfg.model.backbone.init_cfg:
        cfg.model.backbone.init_cfg.checkpoint = file
    heads = check_config(cfg)
    assert len(heads) == (0 if 'linear' in path else
                          2 if 'mask-rcnn' in path or 'fcn_' in path else 1)
    if '_random_' in path:
        return
    init_default_scope(cfg.default_scope)
    if cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    lines = check_recipe(MODELS.build(cfg.model), cfg)
    assert len(lines) == (2 if '-c4_' in path else 1)
    for line in lines:
        assert 'data_preprocessor.mean' in line and 'assumed' not in line
        assert ('.style' in line) == ('r18' not in path and not has_own)


def test_settings_that_the_tensors_do_not_tell(tmp_path,
                                               call):  # noqa: F811
    file = published(tmp_path, 50, call)
    for option, said in (
        ('model.backbone.style=caffe', "model.backbone.style is 'caffe'"),
        ('data_preprocessor.mean=[103.53,116.28,123.675]',
         r' data_preprocessor.mean is \[103.53, 116.28, 123.675\], set it'),
        ('data_preprocessor.to_rgb=False',
         ' data_preprocessor.to_rgb is False')):
        with pytest.raises(SystemExit, match=said):
            call(check_backbone, LINEAR, '--no-data', '--cfg-options',
                 f'{INIT}.checkpoint={file}', option)


def test_heads_for_other_classes(call):  # noqa: F811
    path, = (path for path in TRANSFER if path.endswith('r18_fpn_random_toy'
                                                        '.py'))
    with pytest.raises(SystemExit, match='has 6 classes .*mask_head.num_class'
                       'es=80: set it to 6'):
        call(check_backbone, path, '--no-data', '--cfg-options',
             'model.roi_head.mask_head.num_classes=80')
    assert 'model.roi_head.mask_head.num_classes=6' in call(
        check_backbone, path, '--no-data')


def test_published_files_say_how_they_were_trained(
        tmp_path, call):  # noqa: F811
    state = {f'backbone.{k}': v for k, v in trained(18).state_dict().items()}
    torch.save(
        dict(
            state_dict=state,
            meta=dict(cfg=Config.fromfile(TOY).pretty_text)),
        tmp_path / 'x.pth')
    call(publish_backbone, tmp_path / 'x.pth')
    file, = glob.glob(str(tmp_path / '*-backbone-*.pth'))
    meta = torch.load(file, weights_only=True)['meta']
    assert meta['mean'] == [123.675, 116.28, 103.53]
    assert meta['std'] == [58.395, 57.12, 57.375]
    assert (meta['to_rgb'], meta['style']) == (True, 'pytorch')
    file, = glob.glob(str(tmp_path / '*.safetensors'))
    with safe_open(file, 'pt') as tensors:
        assert '"to_rgb": true' in tensors.metadata()['made']


WATCH = """
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SaveStart(Hook):
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            torch.save(runner.model.state_dict(), '{path}')
"""


def options(file):
    """As publish_backbone.py prints them."""
    return [
        f'{INIT}.type=Pretrained', f'{INIT}.checkpoint={file}',
        f'{INIT}.prefix=resnet18.'
    ]


@pytest.mark.slow
def test_a_pretraining_starts_from_a_file(photo_root, tmp_path, monkeypatch,
                                          call):  # noqa: F811
    """The first step is made with its weights, and a resume goes on."""
    file = published(tmp_path, 18, call)
    start = tmp_path / 'start.pth'
    (tmp_path / 'save_start.py').write_text(WATCH.format(path=start))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    more = [
        'train_dataloader.num_workers=0',
        'custom_imports.imports=[cyborgs_plugin,save_start]',
        'custom_hooks.0.type=SaveStart', *options(file)
    ]
    done = run_train(small(photo_root, tmp_path / 'w', 1, *more))
    assert 'model.backbone: 100 of 100 tensors were loaded' in done.stdout
    assert done.stdout.count('tensors were loaded') == 1  # not the target's
    found = torch.load(start)
    for key, value in trained(18).state_dict().items():
        assert torch.equal(found[f'backbone.{key}'], value), key
        if not key.endswith('running_mean') and not key.endswith('_var'):
            assert torch.equal(found[f'target_net.module.0.{key}'], value)
    assert int(found['target_net.steps']) == 1
    last = torch.load(tmp_path / 'w' / 'epoch_1.pth', weights_only=False)
    key = 'backbone.conv1.weight'
    assert not torch.equal(last['state_dict'][key], found[key])

    # what is resumed are the run's own weights, not the file's
    done = run_train(
        [*small(photo_root, tmp_path / 'w', 2, *more), '--resume'])
    assert 'resumed epoch: 1' in done.stdout
    assert 'tensors of the model are loaded' not in done.stdout  # all are
    assert (tmp_path / 'w' / 'epoch_2.pth').is_file()


@pytest.mark.slow
def test_a_load_of_nothing_ends_a_pretraining(photo_root, tmp_path,
                                              call):  # noqa: F811
    file = published(tmp_path, 18, call)
    for before, after in (([], [f'load_from={file}']),
                          (['--resume', file], [])):
        options = small(photo_root, tmp_path / 'w', 1, *after)
        done = run_train([*before, *options], check=False)
        assert done.returncode == 1
        assert f'{file} fits none of the ' in done.stdout
        assert "prefix='resnet18.'" in done.stdout
        assert 'Traceback' not in done.stdout
