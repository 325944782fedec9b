"""Transfer configs: protocol, twins, and a short run of each."""
import glob
import json
import os.path as osp

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner

from cyborgs_plugin.engine import PretrainedCheckHook
from cyborgs_plugin.transfer.annotation_check import check_annotations
from cyborgs_plugin.transfer.backbone_file import write_backbone
from cyborgs_plugin.transfer.recipe_check import check_recipe

from ..helpers import ROOT, checkpoint, published, trained, write_photo

pytest.importorskip('mmdet', reason='needs mmdet and the ops of mmcv')
from mmdet.registry import MODELS as DETECTORS
from mmdet.utils import register_all_modules

FOLDER = osp.join(ROOT, 'configs', 'transfer')
FILES = sorted(
    osp.basename(path) for path in glob.glob(osp.join(FOLDER, '*.py')))
MAIN = [name for name in FILES if '_cyborgs-pre_' in name]
# those of mmseg have a file of their own, test_segmentation.py
OTHERS = [name for name in MAIN if not name.startswith(('fcn', 'fpn'))]
# whose backbones are no ResNets
YOLO = [name for name in OTHERS if name.startswith(('rtmdet', 'yolox'))]
R50 = [name for name in OTHERS if 'r50' in name or 'resnet50' in name]


def config(name):
    return Config.fromfile(osp.join(FOLDER, name))


def inits(cfg):
    """Where a config names pretrained weights."""
    places = [cfg.model.backbone]
    head = cfg.model.get('roi_head', {}).get('shared_head')
    return places + ([head[0]] if head else [])


@pytest.mark.parametrize('name', FILES)
def test_imports_nothing_of_ours(name):
    cfg = config(name)
    assert 'custom_imports' not in cfg
    assert 'cyborgs_plugin' not in cfg.pretty_text


@pytest.mark.parametrize('name', MAIN)
def test_the_environment_names_the_backbone(name, monkeypatch):
    monkeypatch.setenv('BACKBONE', 'of/mine.pth')
    for place in inits(config(name)):
        assert place.init_cfg.checkpoint == 'of/mine.pth'
    monkeypatch.delenv('BACKBONE')
    for place in inits(config(name)):
        assert place.init_cfg.checkpoint.endswith('/backbone.pth')


@pytest.mark.parametrize('name', MAIN)
def test_builds(name):
    register_all_modules()
    cfg = config(name)
    for place in inits(cfg):
        place.init_cfg = None
    init_default_scope(cfg.default_scope)
    (DETECTORS if cfg.default_scope == 'mmdet' else MODELS).build(cfg.model)


@pytest.mark.parametrize('name', [
    name for name in FILES if '_random_' in name or '_supervised_' in name])
def test_twins_differ_in_init_cfg_alone(name):
    start = 'random' if '_random_' in name else 'supervised'
    one, two = config(name.replace(start, 'cyborgs-pre')), config(name)
    expected = None if start == 'random' else dict(
        type='Pretrained', checkpoint='torchvision://resnet50')
    for place, other in zip(inits(one), inits(two), strict=True):
        assert place.pop('init_cfg')['type'] == 'Pretrained'
        assert other.pop('init_cfg') == expected
    one, two = one.to_dict(), two.to_dict()
    two.pop('head', None)  # a variable of the twins' own
    assert one == two


@pytest.mark.parametrize('name', R50)
def test_protocol(name):
    cfg = config(name)
    backbone = cfg.model.backbone
    linear = 'linear' in name
    preprocessor = (cfg if linear else cfg.model).data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor['to_rgb' if linear else 'bgr_to_rgb'] is True
    assert backbone.style == 'pytorch'
    assert all(place.init_cfg.prefix == 'resnet50.' for place in inits(cfg))
    optimizer = cfg.optim_wrapper.optimizer
    if linear:
        assert backbone.frozen_stages == 4
        assert cfg.train_dataloader.batch_size * 8 == 256
        assert (optimizer.type, optimizer.lr, optimizer.momentum,
                optimizer.weight_decay) == ('SGD', 0.3, 0.9, 0)
        assert cfg.train_cfg.max_epochs == 100
        scheduler, = cfg.param_scheduler
        assert scheduler.type == 'CosineAnnealingLR'
        return
    assert backbone.frozen_stages == -1 and backbone.norm_eval is False
    assert backbone.norm_cfg == dict(type='SyncBN', requires_grad=True)
    assert cfg.train_dataloader.batch_size == 2  # on 8 GPUs
    if name.startswith('dino'):
        return
    assert (optimizer.type, optimizer.lr) == ('SGD', 0.02)
    warm_up, steps = cfg.param_scheduler
    lengths = {
        '_1x_': (90000, [60000, 80000], 500),
        '_2x_': (180000, [120000, 160000], 500),
        '_24k_': (24000, [18000, 22000], 100)
    }
    length, milestones, warm = next(
        value for key, value in lengths.items() if key in name)
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.train_cfg.max_iters == steps.end == length
    assert length % cfg.train_cfg.val_interval == 0
    assert steps.milestones == milestones and warm_up.end == warm
    if 'fpn' in name:
        assert cfg.model.neck.norm_cfg.type == 'SyncBN'
    else:
        stage, norm = cfg.model.roi_head.shared_head
        assert stage.norm_cfg.type == 'SyncBN' and not stage.norm_eval
        assert (norm.type, norm.num_features) == ('SyncBN', 2048)
    dataset = cfg.train_dataloader.dataset
    if 'voc' in name:
        assert len(dataset.datasets) == 2
        sides = [scale[1] for scale in dataset.datasets[0].pipeline[2].scales]
        assert sides == list(range(480, 801, 32))
        assert cfg.val_evaluator.eval_mode == '11points'
        assert cfg.val_evaluator.iou_thrs == pytest.approx(
            np.arange(0.5, 1, 0.05))
        return
    if 'lvis' in name:
        assert (dataset.type, dataset.oversample_thr) == (
            'ClassBalancedDataset', 1e-3)
        assert cfg.model.roi_head.mask_head.num_classes == 1203
        rcnn = cfg.model.test_cfg.rcnn
        assert (rcnn.score_thr, rcnn.max_per_img) == (1e-4, 300)
        dataset = dataset.dataset
    sides = [scale[1] for scale in dataset.pipeline[2].scales]
    assert sides == list(range(640, 801, 32))


def test_extra_batch_norm_follows_stage_4():
    register_all_modules()
    cfg = config('faster-rcnn_r50-c4_random_24k_voc0712.py')
    head = DETECTORS.build(cfg.model).roi_head.shared_head
    stage, norm = head
    assert isinstance(norm, torch.nn.SyncBatchNorm)
    assert norm.num_features == 2048 and norm.weight.requires_grad
    # in evaluation it needs no GPU: the identity, but for eps
    head.eval()
    x = torch.randn(2, 1024, 14, 14)
    expected = stage.layer4(x) / np.sqrt(1 + norm.eps)
    torch.testing.assert_close(head(x), expected)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Backbones: of ResNet-50, ResNet-18, and a raw training checkpoint."""
    folders = {depth: tmp_path_factory.mktemp(str(depth))
               for depth in (18, 50)}
    return {
        'resnet18': published(folders[18], 18),
        'resnet50': published(folders[50], 50),
        'raw': str(folders[50] / 'epoch_3.pth')
    }


def test_mmengine_itself_refuses_what_is_no_resnet50(files):
    """No code of ours runs here but what published the file."""
    register_all_modules()
    cfg = config('mask-rcnn_r50_fpn_cyborgs-pre_1x_coco.py')
    c4 = config('mask-rcnn_r50-c4_cyborgs-pre_1x_coco.py')
    parts = [cfg.model.backbone, c4.model.roi_head.shared_head[0]]
    wanted = trained(50).state_dict()
    for part in parts:
        part.init_cfg.checkpoint = files['resnet50']
        module = DETECTORS.build(part)
        module.init_weights()
        for key, value in module.state_dict().items():
            assert torch.equal(value, wanted[key]), key
        for name, prefix in (('resnet18', 'resnet50.'), ('raw', 'resnet50.'),
                             ('resnet50', 'backbone.'),
                             ('resnet50', 'target_net.module.0.')):
            part.init_cfg.update(checkpoint=files[name], prefix=prefix)
            with pytest.raises(AssertionError, match=prefix):
                DETECTORS.build(part).init_weights()
        part.init_cfg.prefix = 'resnet50.'


@pytest.fixture(scope='module')
def csp_file(tmp_path_factory):
    """Publish the backbone of a config, with weights of its own."""

    def publish(cfg):
        torch.manual_seed(7)
        tensors = DETECTORS.build(
            dict(cfg.model.backbone, init_cfg=None)).state_dict()
        images = cfg.model.data_preprocessor
        raw = dict(mean=[0.] * 3, std=[1.] * 3)
        made = dict(source='csp', to_rgb=False, **{
            key: images.get(key) or raw[key] for key in raw})
        file, _ = write_backbone(
            tensors, made, str(tmp_path_factory.mktemp('csp')), 'csp-backbone')
        return file, tensors

    return publish


def boxes(number):
    return [[4. + number, 5., 30., 24.], [40., 20., 36., 30.]]


def write_coco(root, categories, lvis=False):
    """Four pictures of 96x64 with two objects each, in COCO's layout."""
    for split in ('train', 'val'):
        images, annotations = [], []
        for number in range(4):
            name = f'{number:03d}.png'
            folder = root / f'{split}2017'
            write_photo(folder / name, (64, 96), number)
            images.append(
                dict(
                    id=number + 1,
                    file_name=name,
                    height=64,
                    width=96,
                    coco_url='http://images.cocodataset.org/'
                    f'{split}2017/{name}',
                    not_exhaustive_category_ids=[],
                    neg_category_ids=[]))
            for box in boxes(number):
                x, y, w, h = box
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number + 1,
                        category_id=categories[len(annotations) % 3]['id'],
                        bbox=box,
                        area=w * h,
                        iscrowd=0,
                        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]
                                      ]))
        name = f'lvis_v1_{split}' if lvis else f'instances_{split}2017'
        file = root / 'annotations' / f'{name}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=categories)))


def write_voc(root):
    for year, splits in (('2007', ('trainval', 'test')), ('2012',
                                                          ('trainval', ))):
        folder = root / f'VOC{year}'
        for part in ('ImageSets/Main', 'Annotations', 'JPEGImages'):
            (folder / part).mkdir(parents=True)
        for number in range(4):
            image = write_photo(folder / 'x' / 'x.png', (64, 96), number)
            cv2.imwrite(str(folder / 'JPEGImages' / f'{number:06d}.jpg'),
                        image)
            objects = ''.join(
                f'<object><name>dog</name><difficult>0</difficult><bndbox>'
                f'<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>'
                f'<ymax>{y + h}</ymax></bndbox></object>'
                for x, y, w, h in boxes(number))
            (folder / 'Annotations' / f'{number:06d}.xml').write_text(
                '<annotation><size><width>96</width><height>64</height>'
                f'<depth>3</depth></size>{objects}</annotation>')
        for split in splits:
            (folder / 'ImageSets' / 'Main' / f'{split}.txt').write_text(
                '\n'.join(f'{number:06d}' for number in range(4)))


def write_imagenet(root):
    for split in ('train', 'val'):
        for number in range(1000):
            folder = root / split / f'n{number:08d}'
            folder.mkdir(parents=True)
            if number < 4:
                write_photo(folder / 'a.jpeg', (64, 96), number)


def shrink(node):
    """Small pictures wherever a config resizes them."""
    if isinstance(node, list):
        for child in node:
            shrink(child)
    elif isinstance(node, dict):
        kind = node.get('type')
        if kind == 'RandomChoiceResize':
            node.scales = [(96, 64), (80, 56)]
        elif kind == 'Resize':
            node.scale = (96, 64)
        elif kind == 'RandomCrop':
            node.crop_size = (40, 48)
        elif kind in ('CachedMosaic', 'CachedMixUp', 'Mosaic', 'MixUp'):
            node.img_scale = (64, 64)
        elif kind == 'RandomAffine':
            node.border = (-32, -32)
        elif kind == 'RandomResize':
            node.scale = (128, 128)
        elif kind == 'Pad' and 'size' in node:
            node.size = (96, 96)
        elif kind in ('RandomResizedCrop', 'ResizeEdge'):
            node.scale = 64
        elif kind == 'CenterCrop':
            node.crop_size = 56
        for child in node.values():
            shrink(child)


def reduce(cfg, work_dir):
    """Two iterations and an evaluation, seconds on a CPU."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].update(
            batch_size=2, num_workers=0, persistent_workers=False)
        shrink(cfg[name])
    if cfg.train_cfg.type == 'IterBasedTrainLoop':
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    if cfg.model.type == 'DINO':
        cfg.model.num_queries = 20
        cfg.model.dn_cfg.group_cfg.num_dn_queries = 4
        cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 2
    elif cfg.model.type in ('RTMDet', 'YOLOX'):
        # or it may find nothing
        cfg.model.test_cfg.update(score_thr=0., min_bbox_size=-1)
        if cfg.model.type == 'YOLOX':
            resize, = cfg.model.data_preprocessor.batch_augments
            resize.update(random_size_range=(64, 96), interval=1)
    elif cfg.default_scope == 'mmdet':
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=60, max_per_img=20)
        cfg.model.train_cfg.rcnn.sampler.num = 16
        cfg.model.test_cfg.rpn.update(nms_pre=60, max_per_img=10)
        cfg.model.test_cfg.rcnn.score_thr = 0.  # or it may find nothing
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = osp.basename(work_dir)
    cfg.default_hooks.checkpoint.interval = -1
    cfg.visualizer = None
    cfg.launcher = 'none'


EVALUATED = {
    'coco': 'coco/segm_mAP',
    'voc': 'pascal_voc/AP75',
    'lvis': 'lvis/segm_AP',
    'dino': 'coco/bbox_mAP_75',
    'rtmdet_': 'coco/bbox_mAP_75',
    'yolox': 'coco/bbox_mAP_75',
    'imagenet': 'accuracy/top1'
}


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    name for name in OTHERS if not name.endswith('_toy.py')])
def test_two_iterations_and_an_evaluation(name, tmp_path, files, csp_file,
                                          monkeypatch):
    """From the published file, on tiny data written here."""
    arch = 'resnet18' if 'r18' in name else 'resnet50'
    if name in YOLO:
        file, before = csp_file(config(name))
    else:
        file, before = files[arch], trained(int(arch[6:])).state_dict()
    monkeypatch.setenv('BACKBONE', file)
    for variable in ('COCO', 'LVIS', 'VOC', 'IMAGENET'):
        monkeypatch.setenv(f'{variable}_ROOT', str(tmp_path / 'data'))
    register_all_modules()
    # the package lvis of PyPI asks for what numpy 2 has no more
    monkeypatch.setattr(np, 'float', float, raising=False)
    root = tmp_path / 'data'
    root.mkdir()
    if 'voc' in name:
        write_voc(root)
    elif 'imagenet' in name:
        write_imagenet(root)
    else:
        lvis = 'lvis' in name
        kind = DATASETS.get(
            'mmdet.LVISV1Dataset' if lvis else 'mmdet.CocoDataset')
        write_coco(root, [
            dict(id=number, name=one, frequency='f', image_count=100)
            for number, one in enumerate(kind.METAINFO['classes'], 1)
        ], lvis)
    cfg = config(name)
    assert len(check_annotations(cfg)) == (
        0 if 'voc' in name or 'imagenet' in name else 2)
    reduce(cfg, tmp_path / 'work')
    init_default_scope(cfg.default_scope)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(PretrainedCheckHook())
    runner.train()
    assert runner.iter == 2

    metrics = {
        key: runner.message_hub.get_scalar(key).current()
        for key in runner.message_hub.log_scalars
    }
    wanted = next(value for key, value in EVALUATED.items()
                  if name.startswith(key) or key in name.rsplit('_', 1)[1]
                  and not name.startswith(('dino', 'rtmdet_', 'yolox')))
    assert np.isfinite(metrics[f'val/{wanted}'])
    assert np.isfinite(metrics['train/loss'])

    # what is to learn has learnt, and what is frozen has not
    after = runner.model.state_dict()
    changed = {
        key for key, value in before.items()
        if f'backbone.{key}' in after and not key.endswith('batches_tracked')
        and not torch.equal(value, after[f'backbone.{key}'])
    }
    if 'linear' in name:
        assert not changed
    elif name in YOLO:
        check_recipe(runner.model, cfg)  # the pictures are the file's
        assert len(changed) > 0.9 * len(before) - sum(
            'num_batches' in key for key in before)
    else:
        for key in ('conv1.weight', 'bn1.weight', 'bn1.running_mean',
                    'layer1.0.conv1.weight', 'layer3.0.bn1.running_var'):
            assert key in changed
    if '-c4_' in name:
        assert not torch.equal(
            after['roi_head.shared_head.0.layer4.0.conv1.weight'],
            before['layer4.0.conv1.weight'])
        assert after['roi_head.shared_head.1.num_batches_tracked'] >= 2


def test_raw_checkpoint_is_what_it_is_called(tmp_path):
    """The helper above writes what training writes."""
    checkpoint(tmp_path / 'x.pth')
    content = torch.load(tmp_path / 'x.pth', weights_only=False)
    assert {'backbone.conv1.weight', 'target_net.module.0.conv1.weight'
            } <= set(content['state_dict'])
