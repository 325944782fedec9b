"""Downstream tasks: frozen features, one command a task, one table."""
import json
import math
import os
import os.path as osp
import subprocess
import sys
from importlib.metadata import distribution

import cv2
import numpy as np
import pytest
import torch
import torchvision
from mmengine.structures import InstanceData
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC
from torchvision import transforms

from ..helpers import ROOT, checkpoint, published, trained, write_photo
from ..warm_python import python

TOOLS = osp.join(ROOT, 'tools', 'benchmarks')
sys.path.insert(0, TOOLS)
import collect  # noqa: E402
import frozen_probes  # noqa: E402
import knn_imagenet  # noqa: E402
import voc07_svm  # noqa: E402


@pytest.fixture(scope='module')
def backbone(tmp_path_factory):
    """A published ResNet-18."""
    return published(tmp_path_factory.mktemp('backbone'), 18)


def test_features_are_those_of_torchvision(tmp_path, backbone):
    """Its own resize, crop, normalisation and network, on PIL images."""
    paths = []
    for number, size in enumerate([(300, 400), (500, 280)]):
        write_photo(tmp_path / f'{number}.png', size, number)
        paths.append(str(tmp_path / f'{number}.png'))
    network = voc07_svm.load_frozen(backbone, (3, ))
    found = voc07_svm.extract(network, paths)

    model = torchvision.models.resnet18()
    model.load_state_dict(trained(18).state_dict(), strict=False)
    model.fc = torch.nn.Identity()
    view = transforms.Compose([
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ])
    with torch.no_grad():
        expected = model.eval()(torch.stack(
            [view(Image.open(path).convert('RGB')) for path in paths]))
    expected = torch.nn.functional.normalize(expected).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_svm_of_a_class():
    random = np.random.default_rng(0)
    labels = random.choice([1, -1, -1, 0], 240)
    x = random.normal(size=(240, 6)) + 0.7 * labels[:, None] * np.eye(6)[0]
    x[labels == 0] = 1e3  # difficult: must not count
    train, test = (x[:150], labels[:150]), (x[150:], labels[150:])
    precision, cost = voc07_svm.fit_class(train, test, seed=3)

    clear = [(a[b != 0], b[b != 0]) for a, b in (train, test)]
    search = GridSearchCV(
        LinearSVC(class_weight={1: 2, -1: 1}, max_iter=2000, random_state=3),
        dict(C=[0.01, 0.1, 1, 10]),
        scoring='average_precision',
        cv=3).fit(*clear[0])
    assert cost == search.best_params_['C']
    assert precision == pytest.approx(
        average_precision_score(clear[1][1] == 1,
                                search.decision_function(clear[1][0])))
    assert 0.5 < precision < 1
    with pytest.raises(ValueError, match='2 images with the class'):
        voc07_svm.fit_class((x[:5], np.array([1, 1, -1, -1, -1])), test)


def write_voc(root, kinds=('cat', 'dog'), count=12):
    main = root / 'VOC2007' / 'ImageSets' / 'Main'
    main.mkdir(parents=True)
    for split in ('trainval', 'test'):
        rows = {kind: [] for kind in kinds}
        for number in range(count):
            name = f'{split}{number:02d}'
            image = write_photo(root / 'x.png', (48, 64), number)
            image[..., number % 2] = 200
            folder = root / 'VOC2007' / 'JPEGImages'
            folder.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / f'{name}.jpg'), image)
            for place, kind in enumerate(kinds):
                label = 1 if number % 2 == place else -1
                rows[kind].append(f'{name} {label:2d}')
        for kind, lines in rows.items():
            (main / f'{kind}_{split}.txt').write_text('\n'.join(lines))


def test_voc07_svm(tmp_path, backbone, call):  # noqa: F811
    write_voc(tmp_path / 'voc')
    out = tmp_path / 'out' / 'svm.json'
    said = call(voc07_svm, backbone, '--voc-root', tmp_path / 'voc', '--out',
                out)
    assert '[1/2] cat' in said and '[2/2] dog' in said
    result = json.loads(out.read_text())
    assert result['task'] == 'voc07-svm' and result['start'] == backbone
    assert result['scores']['mAP'] == pytest.approx(
        np.mean(list(result['per_class'].values())))
    assert result['scores']['mAP'] > 0.9  # the colours differ
    with pytest.raises(SystemExit, match='VOC2007'):
        call(voc07_svm, backbone, '--voc-root', tmp_path / 'nowhere')
    (tmp_path / 'voc' / 'VOC2007' / 'JPEGImages' / 'test03.jpg').unlink()
    with pytest.raises(SystemExit, match='1 of 12 images.*test03'):
        call(voc07_svm, backbone, '--voc-root', tmp_path / 'voc')


def test_knn(tmp_path, backbone, call, monkeypatch):  # noqa: F811
    for split in ('train', 'val'):
        for number in range(12):
            write_photo(
                tmp_path / split / f'class{number % 3}' / f'{number}.png',
                (48, 64), number + 20 * (split == 'val'))

    def extract(network, paths):
        """Directions that differ enough to be told apart by any rounding."""
        random = np.random.default_rng(len(paths[0]))
        kinds = [int(osp.basename(osp.dirname(path))[5:]) for path in paths]
        x = random.normal(size=(len(paths), 6)) + np.eye(6)[kinds]
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    monkeypatch.setattr(knn_imagenet, 'extract', extract)
    out = tmp_path / 'knn.json'
    call(knn_imagenet, backbone, '--root', tmp_path, '--k', 5, '--out', out)
    (x, y), (z, truth) = (
        (extract(None, paths), np.array(classes))
        for paths, classes in (knn_imagenet.list_images(
            str(tmp_path / split), None) for split in ('train', 'val')))
    hits = 0
    for vector, kind in zip(z, truth):
        cosines = x @ vector
        nearest = np.argsort(-cosines)[:5]
        votes = {}
        for index in nearest:
            votes[y[index]] = votes.get(y[index], 0) + np.exp(
                cosines[index] / 0.07)
        hits += max(votes, key=votes.get) == kind
    assert 0 < hits < 12
    assert json.loads(out.read_text())['scores'] == {
        'top1 (5-NN)': pytest.approx(hits / 12)
    }
    with pytest.raises(SystemExit, match='no folders of images'):
        call(knn_imagenet, backbone, '--root', tmp_path / 'nowhere')


def write_coco(root, count=12, panoptic=False):
    """Pictures with a bright or a dark box, or both."""
    random = np.random.default_rng(0)
    for split in ('train', 'val'):
        images, annotations = [], []
        for number in range(count):
            name = f'{number:03d}.png'
            path = root / f'{split}2017' / name
            image = write_photo(path, (64, 96), number) // 4 + 96
            for kind, colour, left in ((0, 250, 4), (1, 5, 52)):
                if number % 3 == kind:
                    continue
                x, y = left + random.integers(4), 10 + random.integers(8)
                image[y:y + 32, x:x + 36] = colour
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number + 1,
                        category_id=kind + 1,
                        bbox=[int(x), int(y), 36, 32],
                        area=36 * 32,
                        iscrowd=0,
                        segmentation=[[
                            int(v) for v in (x, y, x + 36, y, x + 36, y + 32,
                                             x, y + 32)
                        ]]))
            cv2.imwrite(str(path), image)
            images.append(
                dict(id=number + 1, file_name=name, height=64, width=96))
        file = root / 'annotations' / f'instances_{split}2017.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=annotations,
                    categories=[
                        dict(id=1, name='bright'),
                        dict(id=2, name='dark')
                    ])))


def test_frozen_probes(tmp_path, backbone, call):  # noqa: F811
    write_coco(tmp_path)
    out = tmp_path / 'probes.json'
    said = call(frozen_probes, backbone, '--root', tmp_path, '--out', out)
    scores = json.loads(out.read_text())['scores']
    assert 'regions accuracy' in said
    assert scores['regions accuracy'] > 0.9 > scores['regions majority']
    assert scores['segments mIoU'] > 0.5 and scores['images mAP'] > 0.5
    file = tmp_path / 'annotations' / 'instances_val2017.json'
    content = json.loads(file.read_text())
    category = content['categories'].pop()
    for categories, expected in (([], 'which its categories lack'),
                                 ([dict(category, name='dim')],
                                  'same classes')):
        file.write_text(
            json.dumps(
                dict(
                    content,
                    categories=content['categories'] + categories)))
        with pytest.raises(SystemExit, match=expected):
            call(frozen_probes, backbone, '--root', tmp_path)
    with pytest.raises(SystemExit, match='does not exist'):
        call(frozen_probes, backbone, '--root', tmp_path / 'nowhere')


def test_frozen_probes_of_what_people_have(tmp_path, backbone, call, capsys):
    """Every class in every image, ids as text, a broken picture."""
    write_coco(tmp_path)
    for split in ('train', 'val'):
        file = tmp_path / 'annotations' / f'instances_{split}2017.json'
        content = json.loads(file.read_text())
        known = content['annotations'][:2]
        for image in content['images']:
            image['id'] = str(image['id'])
        content['annotations'] += [
            dict(box, id=100, image_id=int(image['id']))
            for image in content['images'] for box in known
        ]
        file.write_text(json.dumps(content))
    (tmp_path / 'val2017' / '003.png').write_bytes(b'no picture')
    out = tmp_path / 'probes.json'
    assert 'regions accuracy' in call(
        frozen_probes, backbone, '--root', tmp_path, '--out', out)
    assert {name.split()[0] for name in json.loads(out.read_text())['scores']
            } == {'regions', 'segments'}


@pytest.mark.parametrize('spoil', [
    os.mkfifo, lambda path: path.write_bytes(b'no picture')])
@pytest.mark.parametrize('tool, option, picture', [
    (knn_imagenet, '--root', 'val/cat/0.png'),
    (voc07_svm, '--voc-root', 'VOC2007/JPEGImages/test05.jpg')])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, backbone, call,
                                                tool, option, picture, spoil):
    write_voc(tmp_path)
    for split in ('train', 'val'):
        write_photo(tmp_path / split / 'cat' / '0.png')
    (tmp_path / picture).unlink()
    spoil(tmp_path / picture)  # a pipe would be waited for
    with pytest.raises(SystemExit, match=f'Error: .*{picture}'):
        call(tool, backbone, option, tmp_path)


def coco_run(folder, ann_file):
    """A run as mmengine leaves it; detections scored by mmdet's metric."""
    from mmdet.evaluation import CocoMetric
    with open(ann_file) as file:
        truth = json.load(file)
    random = np.random.default_rng(1)
    metric = CocoMetric(
        str(ann_file), ['bbox', 'segm'],
        outfile_prefix=str(folder / 'detections'))
    metric.dataset_meta = dict(classes=('bright', 'dark'))
    folder.mkdir(parents=True)
    for image in truth['images']:
        found = [a for a in truth['annotations']
                 if a['image_id'] == image['id']]
        boxes, masks = [], []
        for annotation in found:
            x, y, w, h = annotation['bbox']
            dx, dy = random.integers(-5, 6, 2)
            x, y = max(x + dx, 0), max(y + dy, 0)
            boxes.append([x, y, x + w, y + h])
            mask = np.zeros((64, 96), dtype=bool)
            mask[y:y + h, x + 3:x + w] = True
            masks.append(mask)
        predicted = InstanceData(
            bboxes=torch.tensor(np.array(boxes), dtype=torch.float32),
            masks=torch.from_numpy(np.array(masks)),
            labels=torch.tensor(
                [a['category_id'] - 1 for a in found], dtype=torch.long),
            scores=torch.from_numpy(random.random(len(found))).float())
        metric.process({}, [
            dict(
                img_id=image['id'],
                ori_shape=(64, 96),
                pred_instances=predicted.to_dict()
                if hasattr(predicted, 'to_dict') else dict(predicted.items()))
        ])
    scores = metric.evaluate(size=len(truth['images']))
    data = folder / '20260101_000000' / 'vis_data'
    data.mkdir(parents=True)
    (data / 'config.py').write_text(
        "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', "
        "checkpoint='x/net-backbone-12345678.pth')))\n"
        f'val_evaluator = dict(ann_file={str(ann_file)!r})\n'
        'randomness = dict(seed=7)\n')
    older = {key: 0.999 for key in scores}
    (data / 'scalars.json').write_text('\n'.join([
        json.dumps(dict(loss=1.0, step=1)),
        json.dumps(dict(older, step=1)),
        json.dumps(dict(scores, step=2)), '{"loss": 0.'
    ]))
    (folder / 'mask-rcnn_x.py').write_text('')
    return scores


@pytest.mark.needs('ops')
def test_collect(tmp_path, call):  # noqa: F811
    write_coco(tmp_path / 'coco')
    ann_file = tmp_path / 'coco' / 'annotations' / 'instances_val2017.json'
    root = tmp_path / 'runs'
    scores = coco_run(root / 'coco-1x' / 'net' / 'seed7', ann_file)
    assert 0.05 < scores['coco/bbox_mAP'] < 0.95
    assert scores['coco/bbox_mAP'] != scores['coco/segm_mAP']
    (root / 'svm').mkdir()
    (root / 'svm' / 'voc07-svm.json').write_text(
        json.dumps(
            dict(
                task='voc07-svm', start='y.pth', seed=0,
                scores=dict(mAP=0.5))))
    said = call(collect, root)
    results = json.loads((root / 'results.json').read_text())
    first, second = results
    assert (first['config'], first['seed'], first['step']) == (
        'mask-rcnn_x.py', 7, 2)
    assert first['start'].endswith('net-backbone-12345678.pth')
    for name, key in (('box AP', 'bbox_mAP'), ('box AP50', 'bbox_mAP_50'),
                      ('box AP75', 'bbox_mAP_75'), ('box APm', 'bbox_mAP_m'),
                      ('box APs', 'bbox_mAP_s'), ('box APl', 'bbox_mAP_l'),
                      ('mask AP', 'segm_mAP'), ('mask AP75', 'segm_mAP_75')):
        assert first['scores'][name] == scores[f'coco/{key}']
        assert first['pycocotools'][name] == pytest.approx(
            scores[f'coco/{key}'], abs=6e-4)
    assert second['scores'] == dict(mAP=0.5)
    table = (root / 'results.md').read_text()
    assert table.strip() in said and '| box AP50 |' in table
    assert f'| {scores["coco/bbox_mAP"]:.3f} |' in table
    # twice: its own results are none of a benchmark
    call(collect, root)
    assert json.loads((root / 'results.json').read_text()) == results


@pytest.mark.needs('ops')
def test_any_class_scores_what_is_found_not_what_it_is_called(tmp_path):
    write_coco(tmp_path / 'coco')
    ann_file = tmp_path / 'coco' / 'annotations' / 'instances_val2017.json'
    folder = tmp_path / 'runs'
    coco_run(folder, ann_file)
    right = collect.rescore(str(folder), str(ann_file))
    for kind in ('bbox', 'segm'):
        path = folder / f'detections.{kind}.json'
        found = json.loads(path.read_text())
        for one in found:
            one['category_id'] = 3 - one['category_id']
        path.write_text(json.dumps(found))
    wrong = collect.rescore(str(folder), str(ann_file))
    # the oracle: the same detections where there is but one class
    truth = json.loads(ann_file.read_text())
    truth['categories'] = truth['categories'][:1]
    single = truth['categories'][0]['id']
    for one in truth['annotations']:
        one['category_id'] = single
    (tmp_path / 'single.json').write_text(json.dumps(truth))
    for kind in ('bbox', 'segm'):
        path = folder / f'detections.{kind}.json'
        found = json.loads(path.read_text())
        path.write_text(json.dumps([dict(o, category_id=single)
                                    for o in found]))
    oracle = collect.rescore(str(folder), str(tmp_path / 'single.json'))
    for name in ('box', 'mask'):
        assert 0.05 < right[f'{name} AP, any class'] < 0.95
        assert wrong[f'{name} AP'] < right[f'{name} AP'] / 2
        assert (wrong[f'{name} AP, any class'] ==
                right[f'{name} AP, any class'] ==
                pytest.approx(oracle[f'{name} AP']))


@pytest.mark.needs('ops')
def test_collect_refuses_other_numbers_and_empty_folders(
        tmp_path, call):  # noqa: F811
    write_coco(tmp_path / 'coco')
    ann_file = tmp_path / 'coco' / 'annotations' / 'instances_val2017.json'
    folder = tmp_path / 'runs' / 'x'
    coco_run(folder, ann_file)
    path = folder / 'detections.bbox.json'
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found[::2]))
    with pytest.raises(SystemExit, match='by pycocotools, but'):
        call(collect, tmp_path / 'runs')
    with pytest.raises(SystemExit, match='no evaluated run'):
        call(collect, tmp_path / 'coco')


def test_collect_reads_files_alone_and_writes_json(tmp_path, call):
    os.mkfifo(tmp_path / 'pipe.json')
    (tmp_path / 'link.json').symlink_to(tmp_path / 'none')
    logs = tmp_path / 'run' / 'x' / 'vis_data'
    for folder in (tmp_path / 'folder.json', logs):
        folder.mkdir(parents=True)
    os.mkfifo(logs / 'pipe.json')
    (logs / 'scalars.json').write_text(
        '{"coco/bbox_mAP": 1%s, "coco/segm_mAP": NaN}' % ('0' * 400))
    (logs / 'config.py').write_text(
        "model = dict(backbone=dict(type='ResNet'))\n")
    (tmp_path / 'svm.json').write_text(
        '{"task": "svm", "start": "y", "seed": 0, "scores": '
        '{"a": -1%s, "b": 2, "c": Infinity}}' % ('0' * 400))
    said = call(collect, tmp_path)
    results = json.loads(
        (tmp_path / 'results.json').read_text(), parse_constant=pytest.fail)
    assert [result['scores'] for result in results] == [
        {'box AP': None, 'mask AP': None}, dict(a=None, b=2, c=None)]
    assert '| inf | nan |' in said


def test_collect_says_what_is_no_number(tmp_path, capsys):
    assert collect.as_json(dict(a=[1., math.nan]), 'run') == dict(a=[1., None])
    assert capsys.readouterr().err == 'run.a.1 is nan: results.json has null\n'


STUB = """#!/usr/bin/env bash
printf '%s|' "$(basename "$0")" "$@" "B=${BACKBONE:-}" >> {log}
echo >> {log}
case $1 in *publish_backbone.py)
    echo 'Wrote out/e_online-backbone-0123abcd.pth and x.safetensors: 1'
    echo out/e_online-backbone-0123abcd.pth ;;
-c) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def shell(tmp_path):
    """Run transfer.sh with python and mim that only write down calls."""
    log = tmp_path / 'calls'
    for name in ('python', 'mim'):
        (tmp_path / name).write_text(STUB.replace(
            '{log}', str(log)).replace('{python}', sys.executable))
        (tmp_path / name).chmod(0o755)

    def run(*arguments, **environment):
        log.write_text('')
        done = subprocess.run(
            ['bash', osp.join(TOOLS, 'transfer.sh'), *arguments],
            cwd=tmp_path,  # any folder will do
            capture_output=True,
            text=True,
            env={
                **os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}',
                'BACKBONE': 'left/over.pth',
                'PYTHON': 'python',  # make exports another
                **environment
            })
        return done, log.read_text().replace(f'{ROOT}/', '').splitlines()

    return run


PUBLISHED = 'f/net_online-backbone-89abcdef.pth'


@pytest.mark.parametrize('task', [
    'coco-1x', 'coco-2x', 'coco-c4', 'lvis', 'voc', 'dino', 'coco-mini',
    'imagenet-linear', 'voc-seg', 'voc-seg-d16', 'cityscapes',
    'cityscapes-d16', 'ade', 'own-masks', 'rtmdet-tiny', 'rtmdet-s',
    'rtmdet-ins-tiny', 'yolox-s'
])
@pytest.mark.parametrize('start', [PUBLISHED, 'random', 'supervised'])
def test_one_command_a_task(shell, task, start):
    done, calls = shell(task, start, SEED='3')
    if start == 'supervised' and task.startswith(
            ('coco-mini', 'own-masks', 'rtmdet', 'yolox')):
        assert done.returncode == 2 and 'has no config' in done.stderr
        return
    assert done.returncode == 0, done.stderr
    check, train, table = (line.split('|') for line in calls)
    assert check[1].endswith('check_backbone.py')
    assert osp.isfile(osp.join(ROOT, check[2]))
    kind = 'cyborgs-pre' if start == PUBLISHED else start
    assert f'_{kind}_' in check[2]
    assert train[1:3] == ['tools/train.py', check[2]]
    out = train[train.index('--work-dir') + 1]
    assert out.startswith(f'work_dirs/transfer/{task}/')
    assert out.endswith('/seed3') and 'randomness.seed=3' in train
    coco = task.startswith(('coco', 'dino', 'rtmdet', 'yolox'))
    assert (f'val_evaluator.outfile_prefix={out}/detections' in train) == coco
    assert train[-2] == f'B={PUBLISHED if start == PUBLISHED else ""}'
    assert table[1:3] == ['tools/benchmarks/collect.py', 'work_dirs/transfer']


def test_a_training_checkpoint_is_published_first(shell):
    _, calls = shell('coco-1x', 'e.pth', '1', '--amp', '--cfg-options', 'a=1')
    assert calls[0].startswith(
        'python|tools/model_converters/publish_backbone.py|e.pth|')
    assert calls[1].endswith('|B=out/e_online-backbone-0123abcd.pth|')
    words = calls[2].split('|')
    assert words.count('--cfg-options') == 1 and '--amp' in words
    options = words[words.index('--cfg-options'):]
    assert 'a=1' in options and 'randomness.seed=0' in options


@pytest.mark.needs('ops')
def test_several_gpus_and_mim(shell):
    _, calls = shell('voc', PUBLISHED, '8')
    assert 'torch.distributed.run' in calls[1]
    assert '--nproc_per_node=8' in calls[1] and '--launcher' in calls[1]
    for task, package, gpus, launcher in (
        ('coco-1x', 'mmdet', '8', 'pytorch'), ('ade', 'mmseg', '4', 'pytorch'),
        ('imagenet-linear', 'mmpretrain', '1', 'none')):
        _, calls = shell(task, PUBLISHED, gpus, MIM='1')
        assert 'check_backbone.py' in calls[0]
        command = calls[-2].split('|')
        assert command[:2] == ['mim', 'train']
        # what mim asks importlib.metadata for
        assert (distribution(command[2]).read_text('top_level.txt').split()
                == [package])
        assert command[3].startswith('configs/transfer/')
        assert f'|--gpus|{gpus}|--launcher|{launcher}|' in calls[-2]


@pytest.mark.parametrize('task, script', [
    ('voc07-svm', 'voc07_svm.py'), ('imagenet-knn', 'knn_imagenet.py'),
    ('probes', 'frozen_probes.py')])
def test_frozen_tasks(shell, task, script):
    _, calls = shell(task, PUBLISHED, COCO_ROOT='c', VOC_ROOT='c',
                     IMAGENET_ROOT='c')
    assert calls[0].startswith(
        f'python|tools/benchmarks/{script}|{PUBLISHED}|--seed|0|')
    assert '-root|c|' in calls[0] or '--root|c|' in calls[0]
    _, calls = shell(task, 'random')
    assert f'{script}|resnet50|' in calls[0]
    assert shell(task, 'supervised')[0].returncode == 2


def test_wrong_calls(shell):
    done, _ = shell('coco-1x')
    assert done.returncode == 2 and 'TASK' in done.stderr
    done, _ = shell('coco', PUBLISHED)
    assert done.returncode == 2 and 'unknown task coco' in done.stderr


@pytest.mark.slow
def test_from_checkpoint_to_table(tmp_path):
    """Everything real: a training checkpoint, two iterations, the table."""
    from mmdet.datasets import CocoDataset
    write_coco(tmp_path / 'coco', 4)
    for split in ('train', 'val'):
        file = tmp_path / 'coco' / 'annotations' / (
            f'instances_{split}2017.json')
        content = json.loads(file.read_text())
        content['categories'] = [
            dict(id=number, name=name) for number, name in enumerate(
                CocoDataset.METAINFO['classes'], 1)
        ]
        file.write_text(json.dumps(content))
    checkpoint(tmp_path / 'epoch_3.pth')
    work = tmp_path / 'runs'
    done = subprocess.run(
        [
            'bash', osp.join(TOOLS, 'transfer.sh'), 'coco-mini',
            str(tmp_path / 'epoch_3.pth'), '1', '--cfg-options',
            'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
            'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
            'val_dataloader.num_workers=0',
            'model.test_cfg.rcnn.score_thr=0.0'
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ, 'PYTHON': python(),
            'COCO_ROOT': str(tmp_path / 'coco'),
            'WORK': str(work)
        })
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '100 of 100 tensors were loaded' in done.stdout
    result, = json.loads((work / 'results.json').read_text())
    assert result['config'] == 'mask-rcnn_r18_fpn_cyborgs-pre_coco-mini.py'
    assert set(result['scores']) == set(result['pycocotools']) == set(
        list(collect.COLUMNS)[:14])
    assert result['seed'] == 0 and '-backbone-' in result['start']
