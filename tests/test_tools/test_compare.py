"""tools/benchmarks/compare.py: from annotations to a verdict."""
import json
import logging
import os
import os.path as osp
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.files import sha256
from cyborgs_plugin.transfer.backbone_file import write_backbone

from ..helpers import ROOT, TOY, checkpoint, published
from ..warm_python import python

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import compare  # noqa: E402
import compare_data  # noqa: E402
import compare_probe  # noqa: E402
import compare_starts  # noqa: E402

TOOL = osp.join(ROOT, 'tools', 'benchmarks', 'compare.py')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Toy scenes, a run of a pretraining, and a published backbone."""
    folder = tmp_path_factory.mktemp('compare')
    make_toy_scenes(str(folder / 'toy'), num_train=12, num_val=6)
    run = folder / 'run'
    run.mkdir()
    networks = checkpoint(run / 'epoch_3.pth')
    (run / 'last_checkpoint').write_text('/moved/run/epoch_3.pth')
    load_config(TOY).dump(str(run / 'cyborgs_toy.py'))
    (folder / 'other').mkdir()
    return dict(
        folder=folder, run=str(run), networks=networks,
        file=published(folder / 'other', 18),
        jsons=[str(folder / 'toy' / 'annotations' / f'instances_{part}.json')
               for part in ('train2017', 'val2017')])


@pytest.fixture(autouse=True)
def _loud():
    yield
    logging.disable(logging.NOTSET)


def words(place, out, *more):
    return ['--data', *place['jsons'], '--starts', 'random',
            f'imagenet={place["file"]}', f'cyborgs={place["run"]}',
            '--labels', '50', '100', '--seeds', '2', '--task', 'probe',
            '--long-side', '64', '--out', str(out), *more]


def results(out):
    return json.loads((out / 'results.json').read_text())


@pytest.fixture(scope='module')
def probed(place, tmp_path_factory):
    """A probe that nothing has disturbed, and what it printed."""
    out = tmp_path_factory.mktemp('probed')
    done = subprocess.run(
        [python(), TOOL, *words(place, out)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    return out, done.stdout


def test_a_probe_from_annotations_to_a_verdict(probed):
    out, said = probed
    found = results(out)
    assert found['against'] == 'imagenet'
    assert len(found['cells']) == 12
    for cell in found['cells']:
        assert {*cell['scores']} == {'regions', 'pixels', 'retrieval'}
        assert all(0 <= value <= 1 for value in cell['scores'].values())
    assert found['images'] == {'labels_50_s0': 6, 'labels_50_s1': 6,
                               'labels_100': 12}
    assert 'cyborgs against imagenet, regions: ' in said
    # two seeds of random networks on 6 scenes do not tell
    assert 'not shown with 100 %' in said
    for page in ('compare.html', 'compare.md'):
        text = (out / page).read_text()
        assert 'not shown' in text and 'cyborgs against imagenet' in text
    assert 'imagenet: ' in said and 'random weights' in said


def test_seeds_of_one_start_differ_in_their_labels_alone(probed):
    """With all labels the frozen features of a file give one score."""
    cells = {(cell['start'], cell['labels'], cell['seed']): cell['scores']
             for cell in results(probed[0])['cells']}
    retrieval = [{seed: cells[start, labels, seed]['retrieval']
                  for seed in range(2)}
                 for start in ('imagenet', 'cyborgs') for labels in (50, )]
    assert all(found[0] != found[1] for found in retrieval)
    assert cells['random', 100, 0] != cells['random', 100, 1]


def test_a_killed_probe_is_resumed(place, probed, tmp_path, call):
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, TOOL, *words(place, out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS='1'))
    end = time.time() + 300
    while len([*out.glob('probe/*/*.json')]) < 3:
        assert process.poll() is None and time.time() < end
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns
            for path in out.glob('probe/*/*.json')}
    assert len(kept) < 12
    said = call(compare, *words(place, out))
    assert said.count('(done before)') == len(kept)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    whole, again = (
        [{key: value for key, value in cell.items() if key != 'seconds'}
         for cell in results(folder)['cells']]
        for folder in (probed[0], out))
    assert whole == again


def test_other_settings_do_not_mix(place, probed, call):
    with pytest.raises(SystemExit) as stopped:
        call(compare, *words(place, probed[0], '--classes', 'one'))
    assert 'labels_50_s0.json was made from other' in str(stopped.value)
    with pytest.raises(SystemExit) as stopped:
        call(compare, *words(place, probed[0], '--long-side', '96'))
    assert 'is of other settings' in str(stopped.value)


def test_a_detector_s_config_names_the_network_of_a_probe(place, tmp_path,
                                                          call):
    pytest.importorskip('mmdet')
    call(compare, '--data', *place['jsons'], '--starts', 'random',
         f'imagenet={place["file"]}', '--labels', '100', '--seeds', '1',
         '--task', 'probe', '--long-side', '64', '--out', tmp_path, '--config',
         'cyborgs_plugin::transfer/mask-rcnn_r18_fpn_random_toy.py')
    rows = results(tmp_path)['rows']
    assert len(rows) == 6
    assert all(row['difference']['verdict'] == 'not shown' for row in rows
               if row['start'] == 'random')


@pytest.mark.parametrize('task', ['probe', 'detection'])
def test_weights_that_do_not_fit_are_refused(place, tmp_path, call, task):
    if task == 'detection':
        pytest.importorskip('mmdet')
    state = dict(place['networks']['online'].state_dict())
    del state['layer3.0.conv1.weight']
    torch.save(state, tmp_path / 'bad.pth')
    with pytest.raises(SystemExit) as stopped:
        call(compare, '--data', *place['jsons'], '--starts', 'random',
             f'cyborgs={place["run"]}', f'bad={tmp_path / "bad.pth"}',
             '--task', task, '--out', tmp_path / 'out')
    assert 'bad.pth does not fit' in str(stopped.value)
    assert 'layer3.0.conv1.weight' in str(stopped.value)
    assert not (tmp_path / 'out' / task).exists()


@pytest.mark.parametrize('starts, message', [
    (['cyborgs'], 'expected random, or NAME=FILE'),
    (['a=/no/such'], 'no file or folder'),
    (['a/b=x.pth'], "the name 'a/b'"),
    (['random', 'random'], 'two have the same name'),
    (['random', 'a=RUN', '--against', 'b'], 'the starts are random, a'),
    (['a=torchvision://resnet18'], 'nothing is downloaded'),
    (['a=EMPTY'], 'holds no config')])
def test_wrong_starts(place, tmp_path, call, starts, message):
    (tmp_path / 'empty').mkdir()
    starts = [word.replace('RUN', place['run']).replace(
        'EMPTY', str(tmp_path / 'empty')) for word in starts]
    with pytest.raises(SystemExit) as stopped:
        call(compare, '--data', *place['jsons'], '--out', tmp_path / 'o',
             '--starts', *starts)
    assert message in str(stopped.value)


def test_a_run_gives_its_online_network(place, tmp_path):
    start = compare_starts.find_start(f'cyborgs={place["run"]}')
    cfg = compare_starts.find_backbone([start], None)
    assert cfg.model.backbone.type == 'ResNet' and not start.whole
    from mmpretrain.models import ResNet
    network = ResNet(18)
    compare_starts.load_backbone(start, network, str(tmp_path))
    for key, value in place['networks']['online'].state_dict().items():
        if not key.endswith('num_batches_tracked'):
            assert torch.equal(network.state_dict()[key], value), key


def test_each_start_sees_the_pixels_that_it_learnt_from(place, tmp_path):
    from mmpretrain.models import ResNet
    pixels = dict(mean=[1., 2., 3.], std=[4., 5., 6.], to_rgb=False)
    other, _ = write_backbone(
        ResNet(18).state_dict(), dict(source='x', **pixels), str(tmp_path),
        'x-backbone')
    starts = [compare_starts.find_start(text) for text in (
        f'cyborgs={place["run"]}', f'other={other}', 'random')]
    cfg = compare_starts.find_backbone(starts, None)
    probes = compare_probe.Probes(cfg, None, 64, str(tmp_path))
    usual = cfg.model.data_preprocessor
    for start, wanted in zip(starts, (usual, pixels, usual)):
        recorded = compare_starts.load_backbone(
            start, ResNet(18), str(tmp_path))
        found = probes._preprocessor(recorded)
        assert found.mean.flatten().tolist() == pytest.approx(wanted['mean'])
        assert found._channel_conversion == wanted['to_rgb']


def test_a_file_alone_tells_the_network(place):
    start = compare_starts.find_start(f'imagenet={place["file"]}')
    assert compare_starts.find_backbone([start], None).model.backbone == dict(
        type='ResNet', depth=18, out_indices=(1, 2, 3))
    with pytest.raises(UserError, match='give --config'):
        compare_starts.find_backbone([compare_starts.find_start('random')],
                                     None)


def test_weights_that_timm_has_on_this_machine(place, monkeypatch):
    monkeypatch.setattr(compare_starts, 'find_cached',
                        lambda name: {'timm:r18': place['file']}[name])
    start = compare_starts.find_start('imagenet=timm:r18')
    assert start.checkpoint == place['file'] and not start.whole


def test_a_file_with_heads_is_loaded_whole(place, tmp_path):
    """A detector's: its backbone must fit, and what does not is said."""
    from mmpretrain.models import ResNet
    state = {f'backbone.{key}': value for key, value in
             place['networks']['online'].state_dict().items()}
    torch.save(dict(state_dict=dict(
        state, **{'rpn_head.rpn_conv.weight': torch.ones(1)})),
        tmp_path / 'detector.pth')
    start = compare_starts.find_start(f'whole={tmp_path / "detector.pth"}')
    assert start.whole
    holder = torch.nn.Module()
    holder.backbone = ResNet(18)
    holder.other = torch.nn.Linear(1, 1)
    said = compare_starts.check_whole(start, holder, holder.backbone)
    assert 'other.weight' in said and 'only 100 of 102 tensors' in said
    holder.backbone = ResNet(34)
    with pytest.raises(UserError, match='does not fit'):
        compare_starts.check_whole(start, holder, holder.backbone)


def test_one_json_is_divided(place, tmp_path):
    data = compare_data.LabelledData(place['jsons'][:1], [], None, None,
                                     str(tmp_path))
    train, val = ({image['file_name'] for image in side['images']}
                  for side in (data.train, data.val))
    assert not train & val and (len(train), len(val)) == (10, 2)
    assert data.roots == [str(place['folder'] / 'toy' / 'train2017')] * 2


def test_images_that_are_not_found(place, tmp_path):
    path = tmp_path / 'labels.json'
    path.write_text(open(place['jsons'][0]).read())
    with pytest.raises(UserError, match='name their folder by --images'):
        compare_data.LabelledData([str(path)], [], None, None, 'x')


@pytest.mark.slow
def test_a_killed_detection_is_resumed(place, tmp_path,
                                                   monkeypatch, call):
    pytest.importorskip('mmdet')
    arguments = [
        '--data', *place['jsons'], '--starts', 'random',
        f'cyborgs={place["run"]}', '--labels', '50', '--seeds', '1',
        '--classes', '2', '--out', str(tmp_path), '--cfg-options',
        'train_cfg.max_iters=3', 'train_cfg.val_interval=3',
        'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'default_hooks.checkpoint.interval=1'
    ]
    process = subprocess.Popen(
        [sys.executable, TOOL, *arguments], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
        env=dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS='1'))
    folder = tmp_path / 'detection' / 'random' / 'labels_50_s0'
    end = time.time() + 300
    while not (folder / 'last_checkpoint').exists():
        assert process.poll() is None and time.time() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not folder.with_suffix('.json').exists()
    monkeypatch.setattr(sys, 'executable', python())
    said = call(compare, *arguments)
    log = folder.with_suffix('.log').read_text()
    assert 'resumed epoch' in log
    found = results(tmp_path)
    assert [cell['start'] for cell in found['cells']] == ['random', 'cyborgs']
    assert {*found['cells'][0]['scores']} == {'box AP', 'mask AP'}
    assert 'cyborgs against random, box AP: not shown with 50 %' in said
    log = (tmp_path / 'detection' / 'cyborgs' / 'labels_50_s0.log').read_text()
    assert 'model.backbone: 100 of 100 tensors were loaded' in log
    # both have learnt from the same labels
    configs = [
        load_config(str(tmp_path / 'detection' / start / 'labels_50_s0.py'))
        for start in ('random', 'cyborgs')
    ]
    paths = {cfg.train_dataloader.dataset.dataset.ann_file for cfg in configs}
    assert len(paths) == 1 and sha256(paths.pop())
    for cfg in configs:
        assert cfg.pop('model').roi_head.bbox_head.num_classes == 2
        cfg.pop('experiment_name', None)
    assert configs[0].to_dict() == configs[1].to_dict()
    assert not [*tmp_path.rglob('iter_*.pth')]


@pytest.mark.slow
def test_segmentation_of_outlines(place, tmp_path, monkeypatch, call):
    pytest.importorskip('mmseg')
    monkeypatch.setattr(sys, 'executable', python())
    said = call(
        compare, '--data', *place['jsons'], '--starts',
        f'cyborgs={place["run"]}', '--labels', '50', '--seeds', '1', '--task',
        'segmentation', '--out', str(tmp_path), '--cfg-options',
        'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False')
    cell, = results(tmp_path)['cells']
    assert 0 < cell['scores']['mIoU'] < 1
    assert 'Wrote ' in said
    # a mask has the background and the objects of the json
    from pycocotools.coco import COCO
    coco = COCO(place['jsons'][1])
    image = coco.imgs[min(coco.imgs)]
    truth = np.zeros((image['height'], image['width']), np.uint8)
    for annotation in coco.imgToAnns[image['id']]:
        truth[coco.annToMask(annotation) > 0] = annotation['category_id']
    mask = cv2.imread(
        str(tmp_path / 'semantic' / 'masks' / 'val' / '000000.png'),
        cv2.IMREAD_UNCHANGED)
    assert (mask == truth).all()
    cfg = load_config(
        str(tmp_path / 'segmentation' / 'cyborgs' / 'labels_50_s0.py'))
    assert cfg.model.decode_head.num_classes == 7
    log = (tmp_path / 'segmentation' / 'cyborgs' / 'labels_50_s0.log')
    assert '100 of 100 tensors were loaded' in log.read_text()
