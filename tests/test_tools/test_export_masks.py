"""From a round to objects, to a detector of them, to a fine-tune."""
import json
import os
import os.path as osp
import subprocess
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.mask_arrays import MaskBankWriter
from cyborgs_plugin.datasets.mask_bank import (
    MaskBank,
    publish_round,
    round_path,
)
from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
from cyborgs_plugin.ops.instances import find_instances
from cyborgs_plugin.ops.label_maps import resize_label_map

from ..helpers import ROOT, TOY, published
from ..warm_python import python

sys.path.insert(0, osp.join(ROOT, 'tools'))
import export_masks  # noqa: E402

STAGE = osp.join(ROOT, 'configs', 'transfer',
                 'mask-rcnn_r18_fpn_class-agnostic_toy.py')
SMALL = [
    'train_cfg.max_epochs=1', 'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False'
]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run on toy scenes with two rounds, made from the ground truth."""
    folder = tmp_path_factory.mktemp('export')
    data = folder / 'toy'
    make_toy_scenes(str(data), num_train=6, num_val=2)
    coco = COCO(str(data / 'annotations' / 'instances_train2017.json'))
    names = sorted(path.name for path in (data / 'train2017').iterdir())
    listed = {image['file_name']: image for image in coco.imgs.values()}
    for number in range(2):
        writer = MaskBankWriter(str(folder / 'run' / 'masks'), number)
        for index, name in enumerate(names):
            ids = np.zeros((24, 30), np.uint8)
            if name in listed:
                image = listed[name]
                for place, annotation in enumerate(
                        coco.imgToAnns[image['id']], 1):
                    mask = coco.annToMask(annotation)
                    ids[resize_label_map(mask, ids.shape) > 0] = place
            if number == 0:  # the round before knows the left half alone
                ids[:, 15:] = 0
            writer.add(index, f'train2017/{name}', ids)
        writer.close()
        publish_round(str(folder / 'run' / 'masks'), number, len(names), {})
    cfg = load_config(TOY)
    cfg.merge_from_dict({'train_dataloader.dataset.data_root': f'{data}/'})
    cfg.dump(str(folder / 'run' / 'cyborgs_toy.py'))
    return folder


def test_objects_are_the_parts_of_regions(run, tmp_path, call):
    out = tmp_path / 'deep' / 'masks.json'
    said = call(export_masks, run / 'run', '--coco', out)
    coco = COCO(str(out))
    assert [each['name'] for each in coco.cats.values()] == ['object']
    bank, before = (MaskBank(round_path(str(run / 'run' / 'masks'), number))
                    for number in (1, 0))
    count = 0
    for image in coco.imgs.values():
        key = image['file_name']
        expected = find_instances(bank.label_map(key),
                                  [before.label_map(key)])
        annotations = coco.imgToAnns[image['id']]
        assert len(annotations) == len(expected)
        for annotation, instance in zip(annotations, expected):
            mask = coco.annToMask(annotation)
            assert mask.shape == (image['height'], image['width'])
            assert (mask == resize_label_map(
                instance.cells.astype(np.uint8), mask.shape)).all()
            rows, columns = np.nonzero(mask)
            assert annotation['bbox'] == [
                columns.min(), rows.min(), np.ptp(columns) + 1,
                np.ptp(rows) + 1]
            assert annotation['area'] == mask.sum()
            assert annotation['score'] == pytest.approx(instance.score,
                                                        abs=1e-4)
        count += len(expected)
    assert count and f'{count} objects in ' in said


def test_limits_and_rounds(run, tmp_path, call):
    out = tmp_path / 'masks.json'

    def count(*more):
        call(export_masks, run / 'run', '--coco', out, *more)
        return len(json.loads(out.read_text())['annotations'])

    usual = count()
    # without a round before, everything has the score 1
    assert count('--round', 0, '--min-score', 1) > 0
    assert count('--min-score', 0) > usual
    assert count('--max-per-image', 1) <= 8
    for words, message in (
            (['--round', 7], 'no round 7 but [0, 1]'),
            (['--min-area', 0.9, '--max-area', 0.9], 'lower --min-score')):
        with pytest.raises(SystemExit) as stopped:
            call(export_masks, run / 'run', '--coco', out, *words)
        assert message in str(stopped.value)


def train(config, work_dir, *options, **environment):
    done = subprocess.run(
        [python(), osp.join(ROOT, 'tools', 'train.py'), config, '--work-dir',
         str(work_dir), '--cfg-options', *options],
        env=dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS='1',
                 **environment),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.mark.slow
def test_a_detector_of_objects_is_a_start_for_a_fine_tune(run, tmp_path, call):
    pytest.importorskip('mmdet')
    masks = tmp_path / 'masks.json'
    call(export_masks, run / 'run', '--coco', masks, '--min-score', 0)
    file = published(tmp_path, 18)
    said = train(STAGE, tmp_path / 'stage', f'data_root={run}/toy/', *SMALL,
                 BACKBONE=file, MASKS_JSON=str(masks))
    assert 'model.backbone: 100 of 100 tensors were loaded' in said
    stage = tmp_path / 'stage' / 'epoch_1.pth'
    before = torch.load(stage, weights_only=False)['state_dict']
    assert before['roi_head.bbox_head.fc_cls.weight'].shape[0] == 2
    # rates of zero: the fine-tune ends with what it has started from
    config = tmp_path / 'fine.py'
    config.write_text(
        f"_base_ = '{ROOT}/configs/transfer/mask-rcnn_r18_fpn_random_toy.py'\n"
        "model = dict(roi_head=dict(bbox_head=dict(num_classes=1),\n"
        '                           mask_head=dict(num_classes=1)))\n'
        f"masks = dict(ann_file='{masks}', data_prefix=dict(img=''),\n"
        "             metainfo=dict(classes=('object', )))\n"
        'train_dataloader = dict(dataset=masks)\n'
        'val_dataloader = val_evaluator = val_cfg = None\n'
        'test_dataloader = test_evaluator = test_cfg = None\n')
    train(str(config), tmp_path / 'fine', f'data_root={run}/toy/', *SMALL,
          f'load_from={stage}', 'optim_wrapper.optimizer.lr=0.',
          'model.backbone.norm_eval=True')
    after = torch.load(tmp_path / 'fine' / 'epoch_1.pth',
                       weights_only=False)['state_dict']
    assert {*after} == {*before}
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    # six classes: all but the layers that know classes
    said = train(
        osp.join(ROOT, 'configs', 'transfer',
                 'mask-rcnn_r18_fpn_random_toy.py'), tmp_path / 'six',
        f'data_root={run}/toy/', *SMALL, f'load_from={stage}',
        'optim_wrapper.optimizer.lr=0.', 'model.backbone.norm_eval=True',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False')
    assert 'tensors of the model are loaded' in said.replace('\n', ' ')
    after = torch.load(tmp_path / 'six' / 'epoch_1.pth',
                       weights_only=False)['state_dict']
    other = {key for key, value in before.items()
             if value.shape != after[key].shape}
    assert other == {
        f'roi_head.{name}.{part}' for name in (
            'bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')
        for part in ('weight', 'bias')
    }
    for key in {*before} - other:
        assert torch.equal(after[key], before[key]), key


@pytest.mark.slow
def test_so_is_the_demos_detector(run, tmp_path, call):
    """By its two configs, as docs/toy_scenes.md has it."""
    mmdet = pytest.importorskip('mmdet.models')
    masks, file = tmp_path / 'masks.json', tmp_path / 'backbone.pth'
    call(export_masks, run / 'run', '--coco', masks, '--min-score', 0)
    network = mmdet.CSPNeXt(deepen_factor=0.167, widen_factor=0.375)
    weights = {f'backbone.{key}': value
               for key, value in network.state_dict().items()}
    torch.save(dict(state_dict=weights, meta=dict(
        mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395],
        to_rgb=False)), file)
    name = osp.join(ROOT, 'configs', 'transfer',
                    'faster-rcnn_cspnext-tiny_fpn_{}_toy.py')
    said = train(name.format('class-agnostic'), tmp_path / 'stage',
                 f'data_root={run}/toy/', *SMALL, BACKBONE=str(file),
                 MASKS_JSON=str(masks))
    assert 'model.backbone: 173 of 173 tensors were loaded' in said
    said = train(name.format('random'), tmp_path / 'fine',
                 f'data_root={run}/toy/', *SMALL,
                 f'load_from={tmp_path}/stage/epoch_1.pth',
                 'val_dataloader.num_workers=0',
                 'val_dataloader.persistent_workers=False')
    # all but what tells six classes apart
    assert '197 of 199 tensors of the model are loaded' in said
    assert 'coco/bbox_mAP' in said
