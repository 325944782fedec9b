"""Segmentors of the transfer configs: protocol, and a short run of each."""
import glob
import os.path as osp
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from cyborgs_plugin.transfer.backbone_file import write_backbone

from ..helpers import ROOT, trained, write_photo

mmseg = pytest.importorskip('mmseg', reason='needs mmseg and its ops')

FOLDER = osp.join(ROOT, 'configs', 'transfer')
sys.path[:0] = [osp.join(ROOT, 'tools', part)
                for part in ('', 'benchmarks', 'model_converters')]
import check_backbone  # noqa: E402
import collect  # noqa: E402
import train  # noqa: E402

VOC = 'fcn_r50-d8_cyborgs-pre_20k_voc12aug.py'
CITYSCAPES = 'fcn_r50-d8_cyborgs-pre_40k_cityscapes.py'
ADE = 'fcn_r50-d8_cyborgs-pre_80k_ade20k.py'
VOC_16 = 'fcn-d6_r50-d16_cyborgs-pre_30k_voc12aug.py'
CITYSCAPES_16 = 'fcn-d6_r50-d16_cyborgs-pre_90k_cityscapes.py'
OWN = 'fpn_r18_cyborgs-pre_own-masks.py'
MAIN = [VOC, CITYSCAPES, ADE, VOC_16, CITYSCAPES_16, OWN]


def config(name):
    return Config.fromfile(osp.join(FOLDER, name))


def test_no_segmentor_is_left_out():
    files = glob.glob(osp.join(FOLDER, 'f[cp]n*_cyborgs-pre_*.py'))
    assert sorted(map(osp.basename, files)) == sorted(MAIN)


def strip(cfg, batch):
    """Take out what is meant to differ."""
    cfg = cfg.to_dict()
    assert cfg['train_dataloader'].pop('batch_size') == batch
    cfg['train_dataloader'].pop('num_workers')
    for key in ('type', 'init_cfg', 'frozen_stages'):
        cfg['model']['backbone'].pop(key, None)
    cfg['model'].pop('pretrained', None)
    cfg['optim_wrapper'].setdefault('clip_grad', None)
    cfg['default_hooks']['checkpoint'].pop('max_keep_ckpts', None)
    # without an end it is that of the run
    schedule, = cfg['param_scheduler']
    assert schedule.pop('end', None) in (None, cfg['train_cfg']['max_iters'])
    assert schedule.pop('begin', 0) == 0
    data = cfg['train_dataloader']['dataset']
    for part in [*data.get('datasets', [data]),
                 cfg['val_dataloader']['dataset']]:
        part['data_root'] = part['data_root'].rstrip('/')
        # They pad some pictures before they normalise them; all of ours are
        # padded afterwards. The class says what the step repeats.
        part['pipeline'] = [step for step in part['pipeline']
                            if step['type'] != 'Pad']
        for step in part['pipeline']:
            step.pop('reduce_zero_label', None)
    return {key: value for key, value in cfg.items() if key in (
        'model', 'train_dataloader', 'val_dataloader', 'val_evaluator',
        'optim_wrapper', 'param_scheduler', 'train_cfg', 'default_hooks')}


@pytest.mark.parametrize('name, theirs, batch', [
    (VOC, 'fcn_r50-d8_4xb4-20k_voc12aug-512x512', 4),
    (CITYSCAPES, 'fcn_r50-d8_4xb2-40k_cityscapes-769x769', 2),
    (ADE, 'fcn_r50-d8_4xb4-80k_ade20k-512x512', 4)])
def test_as_in_mmseg(name, theirs, batch):
    """But for the stem, what starts from it, and 16 images on 8 GPUs."""
    theirs = Config.fromfile(
        osp.join(mmseg.__path__[0], '.mim/configs/fcn', f'{theirs}.py'))
    assert strip(config(name), 2) == strip(theirs, batch)


@pytest.mark.parametrize('name, length, rate, side, scale', [
    (VOC_16, 30000, 0.003, 513, (2049, 513)),
    (CITYSCAPES_16, 90000, 0.01, 769, (2049, 1025))])
def test_protocol_of_stride_16(name, length, rate, side, scale):
    cfg = config(name)
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    assert (backbone.strides, backbone.dilations) == (
        (1, 2, 2, 1), (1, 1, 1, 2))
    assert (head.channels, head.concat_input, head.dropout_ratio,
            head.dilation, head.align_corners, head.num_convs) == (
                256, False, 0, 6, True, 2)
    assert cfg.model.auxiliary_head is None
    assert cfg.model.data_preprocessor.size == (side, side)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum,
            optimizer.weight_decay) == ('SGD', rate, 0.9, 1e-4)
    schedule, = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == schedule.end == length
    assert schedule.milestones == [length * 7 // 10, length * 9 // 10]
    data = cfg.train_dataloader.dataset
    for part in data.get('datasets', [data]):
        kinds = [step.type for step in part.pipeline]
        assert kinds == ['LoadImageFromFile', 'LoadAnnotations',
                         'RandomResize', 'RandomCrop', 'RandomFlip',
                         'PackSegInputs']
        assert part.pipeline[2].scale == scale
        assert part.pipeline[3] == dict(
            type='RandomCrop', crop_size=(side, side))
    assert cfg.val_dataloader.dataset.pipeline[1].scale == scale


@pytest.fixture(scope='module')
def backbones(tmp_path_factory):
    """Published files of ResNet-18 and ResNet-50."""
    folder = str(tmp_path_factory.mktemp('backbones'))
    return {
        depth: write_backbone(dict(trained(depth).state_dict()),
                              dict(source='a test'), folder, 'net')[0]
        for depth in (18, 50)
    }


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two pictures of 96x64 for each part, in the form of each data set."""
    root = tmp_path_factory.mktemp('data')
    voc = root / 'VOC2012'
    for part, masks, names in (
            ('train', '', 'ab'), ('aug', 'Aug', 'cd'), ('val', '', 'ef')):
        for name in names:
            write_pair(voc / 'JPEGImages' / f'{name}.jpg',
                       voc / f'SegmentationClass{masks}' / f'{name}.png',
                       (0, 15), palette=not masks)
        file = voc / 'ImageSets' / 'Segmentation' / f'{part}.txt'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('\n'.join(names))
    for part, longer in (('train', 'training'), ('val', 'validation')):
        for name in 'ab':
            town = f'{part}/town/{name}'
            write_pair(root / f'leftImg8bit/{town}_leftImg8bit.png',
                       root / f'gtFine/{town}_gtFine_labelTrainIds.png',
                       (0, 18))
            write_pair(root / f'images/{longer}/{name}.jpg',
                       root / f'annotations/{longer}/{name}.png', (1, 150))
            write_pair(root / f'images/{part}/{name}.jpg',
                       root / f'masks/{part}/{name}.png', (0, 1))
    return root


def write_pair(picture, mask, values, palette=False):
    """A photograph and its mask of two values and of pixels to ignore."""
    image = write_photo(picture.with_suffix('.png'), (64, 96), len(str(mask)))
    if picture.suffix != '.png':
        picture.with_suffix('.png').unlink()
        cv2.imwrite(str(picture), image)
    labels = np.full((64, 96), 255, np.uint8)
    labels[:, :40], labels[:, 48:] = values
    mask.parent.mkdir(parents=True, exist_ok=True)
    if palette:  # as VOC's own are
        from PIL import Image
        one = Image.fromarray(labels, 'P')
        one.putpalette(list(range(256)) * 3)
        one.save(mask)
    else:
        cv2.imwrite(str(mask), labels)


@pytest.fixture
def environment(backbones, data, monkeypatch):
    for name in ('VOC', 'CITYSCAPES', 'ADE', 'MASKS'):
        monkeypatch.setenv(f'{name}_ROOT', str(data))
    monkeypatch.setenv('MASKS_CLASSES', 'background,cup')

    def choose(name):
        file = backbones[18 if 'r18' in name else 50]
        monkeypatch.setenv('BACKBONE', file)
        return file

    return choose


@pytest.mark.parametrize('name', MAIN)
def test_the_backbone_takes_a_published_file(name, environment):
    environment(name)
    cfg = config(name)
    init_default_scope('mmseg')
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    state = backbone.state_dict()
    expected = trained(18 if 'r18' in name else 50).state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], expected[key]) for key in state)
    # nothing is frozen, statistics included
    backbone.train()
    assert all(one.requires_grad for one in backbone.parameters())
    assert all(one.training for one in backbone.modules())
    # the stride of its last map
    backbone.eval()
    with torch.no_grad():
        last = backbone(torch.zeros(1, 3, 64, 64))[-1]
    stride = 16 if 'd16' in name else 32 if name == OWN else 8
    assert last.shape[-1] == 64 // stride


def small_options(name):
    """Two iterations of two crops of 64 pixels, then an evaluation."""
    cfg = config(name)
    found = [
        'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
        'val_dataloader.num_workers=0', 'model.data_preprocessor.size=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(96,64)'
    ]
    if name != OWN:
        found += ['default_hooks.checkpoint.interval=-1',
                  'default_hooks.checkpoint.save_last=False']
    parts = cfg.train_dataloader.dataset.get('datasets')
    for part in ([f'.datasets.{i}' for i in range(len(parts))]
                 if parts else ['']):
        steps = f'train_dataloader.dataset{part}.pipeline'
        found += [f'{steps}.2.scale=(96,64)', f'{steps}.3.crop_size=(64,64)']
    if cfg.model.test_cfg.mode == 'slide':
        found += ['model.test_cfg.crop_size=(64,64)',
                  'model.test_cfg.stride=(48,48)']
    return found


@pytest.mark.slow
@pytest.mark.parametrize('name', MAIN)
def test_two_iterations_and_an_evaluation(name, environment, tmp_path, call,
                                          monkeypatch):
    """By tools/train.py, and read by tools/benchmarks/collect.py."""
    file = environment(name)
    # half of the time goes into the layout of the config's text
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode',
                        lambda text, **_: (text, True))
    call(train, osp.join(FOLDER, name), '--work-dir', tmp_path,
         '--cfg-options', *small_options(name))
    result = collect.read_run(str(tmp_path))
    assert result['config'] == name and result['start'] == file
    assert result['step'] == 2
    scores = result['scores']
    assert list(scores) == ['mIoU (%)', 'mAcc (%)', 'aAcc (%)']
    assert all(0 <= score <= 100 for score in scores.values())

    if name != OWN:  # hundreds of megabytes
        return
    after = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    before = trained(18).state_dict()
    for key in ('conv1.weight', 'bn1.weight', 'bn1.running_mean',
                'layer1.0.conv1.weight', 'layer4.1.bn1.running_var'):
        assert not torch.equal(after['state_dict'][f'backbone.{key}'],
                               before[key]), key


@pytest.mark.slow
def test_another_stem_is_refused(environment, call):
    environment(VOC)
    said = call(check_backbone, osp.join(FOLDER, VOC))
    assert 'model.backbone: 265 of 265 tensors were loaded' in said
    assert 'model.decode_head.num_classes=21' in said
    assert '2 pictures with masks; in 2 of them are 2 of 21 classes' in said
    with pytest.raises(SystemExit, match='stem.0.weight.*ResNetV1c begins '
                       "with several convolutions.*type to 'ResNet'"):
        call(check_backbone, osp.join(FOLDER, VOC), '--no-data',
             '--cfg-options', 'model.backbone.type=ResNetV1c')
