"""Every tool with files that would run code, hang or make no sense.

None may run anything, and each is refused by one line that names the file.
"""
import importlib.util
import io
import json
import os
import os.path as osp
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from ..helpers import LINEAR, ROOT, TOY, checkpoint, small, write_photo
from ..warm_python import python

TOOLS = osp.join(ROOT, 'tools')
DETECTOR = osp.join(ROOT, 'configs', 'transfer',
                    'mask-rcnn_r18_fpn_cyborgs-pre_toy.py')
DEEP = 10**6  # ends an interpreter that hashes such tuples


class Canary:
    """Writes a file as it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def zipped(pickled):
    """What torch.save writes around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('x/data.pkl', pickled)
        archive.writestr('x/version', '3\n')
    return file.getvalue()


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def evil_checkpoints(canary):
    """Name -> bytes. Hashing the keys in two would never come to an end."""
    evil = Canary(canary)
    inside = dict(
        state_dict={'backbone.conv1.weight': torch.ones(2)},
        meta=dict(epoch=1, iter=1, cfg=''),
        message_hub=dict(runtime_info={}),
        evil=evil)
    good = saved(dict(inside, evil=None))
    # 64 times: keep what is on the stack, take it again, make a pair
    shared = b''.join(b'q%ch%c\x86' % (number, number)
                      for number in range(64))
    return dict(
        plain=pickle.dumps(evil),
        tail=pickle.dumps(evil) + b'PK\x05\x06' + 18 * b'\0',
        zip=saved(inside),
        zip_of_state=saved(dict(state_dict=dict(w=evil))),
        legacy=saved(inside, _use_new_zipfile_serialization=False),
        deep=zipped(b'\x80\x02})' + DEEP * b'\x85' + b'K\x01s.'),
        deep_lists=zipped(b'\x80\x02' + 9999 * b']' + 9998 * b'a' + b'.'),
        shared=zipped(b'\x80\x02})' + shared + b'K\x01s.'),
        truncated=good[:len(good) // 2],
        empty=b'',
        text=b'<!DOCTYPE html>\n<html>Not found</html>\n',
        list=saved([torch.ones(1)]),
        list_of_state=saved(dict(state_dict=[1, 2])),
        meta=saved(dict(state_dict={}, meta='x', message_hub=7)))


def evil_annotations(canary):
    return dict(
        pickle=pickle.dumps(dict(images=Canary(canary))),
        yaml=b'!!python/object/apply:builtins.open ["%b", "w"]' % str(
            canary).encode(),
        deep=b'[' * DEEP,
        deep_object=b'{"images":' * DEEP,
        truncated=b'{"images": [{"id": 1, "file_name": "1.pn',
        empty=b'',
        text=b'hello\n',
        list=b'[1, 2]',
        numbers=b'{"images": [1], "annotations": [2], "categories": [3]}')


def load(name):
    spec = importlib.util.spec_from_file_location(
        f'tool_{name}', osp.join(TOOLS, f'{name}.py'))
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, osp.dirname(spec.origin))
    sys.path.insert(0, TOOLS)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.path[:2]
    return module


@pytest.fixture
def refuses(tmp_path, call):
    """Run a tool in this process and look at how it ends."""

    def run(tool, *arguments, names):
        with pytest.raises(SystemExit) as ended:
            call(load(tool), *arguments)
        said = ended.value.code
        assert isinstance(said, str), (tool, arguments, said)
        assert '\n' not in said, (tool, said)
        assert osp.basename(str(names)) in said, (tool, said)
        assert not (tmp_path / 'canary').exists(), (tool, names)

    return run


@pytest.fixture
def checkpoints(tmp_path):
    """Files of ``evil_checkpoints``."""
    folder = tmp_path / 'evil'
    folder.mkdir()
    for name, content in evil_checkpoints(tmp_path / 'canary').items():
        (folder / f'{name}.pth').write_bytes(content)
    return sorted(folder.iterdir())


@pytest.fixture
def annotations(tmp_path):
    """Files of ``evil_annotations``, by the endings that choose a reader."""
    folder = tmp_path / 'evil_json'
    folder.mkdir()
    for name, content in evil_annotations(tmp_path / 'canary').items():
        for ending in ('json', 'pkl', 'yaml') if (
                name in ('pickle', 'yaml')) else ('json', ):
            (folder / f'{name}.{ending}').write_bytes(content)
    return sorted(folder.iterdir())


def test_the_canary_can_sing(tmp_path):
    canary = tmp_path / 'canary'
    found = evil_checkpoints(canary)
    for name in ('plain', 'tail', 'zip', 'zip_of_state', 'legacy'):
        if name == 'tail':
            pickle.loads(found[name])
        else:
            try:
                torch.load(io.BytesIO(found[name]), weights_only=False)
            except Exception:  # after it sang
                pass
        assert canary.exists(), name
        canary.unlink()


def test_good_files_of_the_same_make_are_read(tmp_path, call):
    """Nothing is refused for the way in which these files are made."""
    checkpoint(tmp_path / 'x.pth')
    content = torch.load(tmp_path / 'x.pth', weights_only=False)
    torch.save(content, tmp_path / 'old.pth',
               _use_new_zipfile_serialization=False)
    for name in ('x', 'old'):
        assert 'Wrote' in call(load('model_converters/publish_backbone'),
                               tmp_path / f'{name}.pth')


@pytest.mark.parametrize('tool, options', [
    ('model_converters/publish_backbone', []),
    ('model_converters/from_published', []),
    ('model_converters/to_torchvision', []),
    ('model_converters/to_timm', []),
    ('model_converters/to_detectron2', []),
    ('benchmarks/voc07_svm', []),
    ('benchmarks/knn_imagenet', []),
    ('benchmarks/frozen_probes', []),
])
def test_backbones(tool, options, checkpoints, refuses, tmp_path):
    for path in checkpoints:
        refuses(tool, path, *options, names=path)
    refuses(tool, tmp_path / 'none.pth', names='none.pth')
    os.mkfifo(tmp_path / 'fifo.pth')
    refuses(tool, tmp_path / 'fifo.pth', names='fifo.pth')


def test_check_backbone(checkpoints, refuses, tmp_path):
    key = 'model.backbone.init_cfg.checkpoint'
    for path in checkpoints:
        refuses('model_converters/check_backbone', LINEAR, '--no-data',
                '--cfg-options', f'{key}={path}',
                'model.backbone.depth=18', names=path)
    for address in ('s3://x/y.pth', 'a:petrel://x/y.pth', 'pavi://x',
                    f'file://{checkpoints[0]}'):
        refuses('model_converters/check_backbone', LINEAR, '--no-data',
                '--cfg-options', f'{key}={address}', names=address)


def test_arrays_of_others(tmp_path, refuses):
    """``.npy`` and ``.npz``, which are pickles inside."""
    canary = tmp_path / 'canary'
    np.save(tmp_path / 'x.npy', dict(a=1))
    whole = (tmp_path / 'x.npy').read_bytes()
    header = whole[:whole.index(b'\n') + 1]
    for name, content in dict(
            evil=header + pickle.dumps(Canary(canary)),
            deep=header + b'\x80\x02})' + DEEP * b'\x85' + b'K\x01s.',
            deep_lists=header + b'\x80\x02' + 999 * b']' + 998 * b'a' + b'.',
            half=header,
            plain=pickle.dumps(Canary(canary)),
            empty=b'').items():
        for ending in ('npy', 'npz'):
            path = tmp_path / f'{name}.{ending}'
            path.write_bytes(content)
            refuses('model_converters/from_published', path, names=path)
    np.savez(tmp_path / 'objects.npz', a=np.array([Canary(canary)], object))
    canary.unlink(missing_ok=True)
    refuses('model_converters/from_published', tmp_path / 'objects.npz',
            names='objects.npz')


def test_probes_of_evil_annotations(annotations, refuses, tmp_path):
    for path in annotations:
        refuses('benchmarks/frozen_probes', 'resnet18', '--root', tmp_path,
                '--train-json', path, names=path)


def test_evaluate_masks(annotations, refuses, tmp_path):
    for path in annotations:
        refuses('evaluate_masks', '--floor', '3', '--ann', path, names=path)


def test_annotations_of_detectors(annotations, refuses):
    for path in annotations:
        refuses('model_converters/check_backbone',
                DETECTOR.replace('cyborgs-pre', 'random'), '--cfg-options',
                f'train_dataloader.dataset.ann_file={path}', names=path)


@pytest.mark.parametrize('bank_format', [1, 2])
def test_mask_banks(tmp_path, refuses, bank_format):
    from cyborgs_plugin.segmentation import GridMasks, make_round
    root, image = tmp_path / 'masks', 'train2017/a.png'
    write_photo(tmp_path / image, (2, 3))
    make_round(GridMasks(), [(image, str(tmp_path / image))], str(root), 0, 0,
               bank_format=bank_format)
    names = [path.name for path in (root / 'round_0000').iterdir()
             if path.is_file()]
    assert len(names) > 1
    evil = evil_annotations(tmp_path / 'canary') | evil_checkpoints(
        tmp_path / 'canary')
    (tmp_path / 'canary').unlink(missing_ok=True)
    for name in names:
        for content in evil.values():
            shutil.rmtree(tmp_path / 'copy', ignore_errors=True)
            shutil.copytree(root, tmp_path / 'copy')
            (tmp_path / 'copy' / 'round_0000' / name).write_bytes(content)
            refuses('browse_masks', tmp_path, tmp_path / 'copy', '--out',
                    tmp_path / 'x.png', names='copy')


def logged_run(folder, config):
    data = folder / '20260101_000000' / 'vis_data'
    data.mkdir(parents=True)
    (data / 'config.py').write_text(config)
    (data / 'scalars.json').write_text(
        json.dumps({'coco/bbox_mAP': 0.5, 'step': 2}) + '\n[1]\n3\n')


GOOD = "model = dict(backbone=dict(init_cfg=None))\n"


def test_collect_runs_no_config(tmp_path, call, capsys):
    canary = tmp_path / 'canary'
    sing = f"open({str(canary)!r}, 'w')"
    logged_run(tmp_path / 'runs' / 'a', f'{GOOD}evil = {sing}\n{sing}\n')
    said = call(load('benchmarks/collect'), tmp_path / 'runs')
    assert '| 0.500 |' in said and not canary.exists()


def test_collect(tmp_path, refuses):
    canary = tmp_path / 'canary'
    sing = f"open({str(canary)!r}, 'w')"
    for name, config in dict(
            call=f'model = {sing}',
            inner=f'model = dict(backbone={sing})',
            unpacked='model = dict(**1)',
            deep='model = ' + '(' * 10**5,
            deep_dicts='model = ' + 'dict(a=' * 5000 + '1' + ')' * 5000,
            empty='', text='not python at all').items():
        logged_run(tmp_path / name / 'a', config)
        refuses('benchmarks/collect', tmp_path / name, names='config.py')
    for name, content in evil_annotations(canary).items():
        folder = tmp_path / f'score_{name}'
        ann_file = tmp_path / 'truth.json'
        ann_file.write_bytes(content)
        logged_run(folder / 'a', f'{GOOD}val_evaluator = dict(ann_file='
                   f'{str(ann_file)!r})\n')
        (folder / 'a' / 'detections.bbox.json').write_text(
            '[{"image_id": 1, "bbox": 1}]')
        refuses('benchmarks/collect', folder, names='truth.json')
    folder = tmp_path / 'frozen'
    folder.mkdir()
    for content in ('{"task": 1, "scores": {}}', '[' * DEEP,
                    '{"task": 1, "start": 1, "seed": 1, "scores": [1]}'):
        (folder / 'x.json').write_text(content)
        refuses('benchmarks/collect', folder, names='x.json')


@pytest.mark.slow
def test_transfer_of_names_and_files(tmp_path):
    """A name is a name, and a file in ``o'neil`` is a file like others."""
    canary = tmp_path / 'canary'

    def transfer(path, **environment):
        done = subprocess.run(
            ['bash', osp.join(TOOLS, 'benchmarks', 'transfer.sh'),
             'imagenet-linear', str(path)],
            cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, 'PYTHON': python(),
                 'OMP_NUM_THREADS': '1', **environment})
        assert not canary.exists()
        last = done.stderr.splitlines()[-1]
        assert done.returncode and 'Traceback' not in done.stderr, done.stderr
        return last

    name = ("x'+str(open(chr(99)+chr(97)+chr(110)+chr(97)+chr(114)+chr(121),"
            "'w'))+'-backbone-01234567.pth")
    (tmp_path / name).write_bytes(b'')
    assert '01234567' in transfer(name)
    assert not (tmp_path / 'canary').exists()
    folder = tmp_path / "o'neil, 2024"
    folder.mkdir()
    (folder / 'x.pth').write_bytes(
        evil_checkpoints(canary)['tail'])
    assert "o'neil, 2024/x.pth" in transfer(folder / 'x.pth')


def test_a_folder_with_a_quote_is_a_folder(tmp_path, call, monkeypatch):
    folder = tmp_path / "o'neil, \\2024"
    folder.mkdir()
    checkpoint(folder / 'e.pth', 50)
    published = call(load('model_converters/publish_backbone'),
                     folder / 'e.pth').splitlines()[-1]
    monkeypatch.setenv('BACKBONE', published)
    said = call(load('model_converters/check_backbone'), LINEAR, '--no-data')
    assert '265 of 265 tensors were loaded' in said


def test_variables_of_other_configs(tmp_path, refuses, monkeypatch):
    """mmengine pastes them into Python."""
    path = tmp_path / 'x.py'
    path.write_text("load_from = '{{$BACKBONE:x.pth}}'\n")
    monkeypatch.setenv('BACKBONE', "x'+str(open('canary','w'))+'")
    monkeypatch.chdir(tmp_path)
    refuses('train', path, names='x.py')
    base = tmp_path / 'y.py'
    base.write_text("_base_ = 'x.py'\n")
    refuses('train', base, names='y.py')


@pytest.fixture
def photos(tmp_path):
    for number in range(4):
        write_photo(tmp_path / 'data' / 'train2017' / f'{number}.png',
                    seed=number)
    return tmp_path / 'data'


def kinds(paths, *names):
    """Of each kind one, where a file takes seconds.

    All go through one reader, see tests/test_safe_load.py.
    """
    found = [path for path in paths if path.name in names]
    assert len(found) == len(names)
    return found


@pytest.mark.slow
def test_training(checkpoints, photos, refuses, tmp_path):
    """--resume, load_from, the latest one, init_cfg and source.checkpoint."""
    work = tmp_path / 'w'
    serial = 'train_dataloader.num_workers=0'
    init = 'model.backbone.init_cfg'
    for path in kinds(checkpoints, 'tail.pth', 'zip.pth', 'list.pth'):
        work.mkdir(exist_ok=True)
        (work / 'last_checkpoint').write_text(str(path))
        for arguments, option in (
            (['--resume', path], None),
            (['--resume'], None),
            ([], f'load_from={path}'),
            ([], f'{init}.checkpoint={path}'),
            ([], f'default_hooks.mask_update.source.checkpoint={path}'),
        ):
            options = [serial] + [option] * bool(option)
            if option and option.startswith(init):
                options.append(f'{init}.type=Pretrained')
            if option and 'source' in option:
                # the masks of the start are made from it as well
                options.append('default_hooks.mask_update.initial=None')
            refuses('train', TOY, *arguments,
                    *small(photos, work, 1, *options), names=path)
            shutil.rmtree(work / 'masks', ignore_errors=True)


@pytest.mark.slow
def test_mask_rounds(checkpoints, photos, refuses, tmp_path):
    for path in kinds(checkpoints, 'tail.pth', 'zip.pth', 'meta.pth'):
        for arguments, option in (([path], None), ([path, '--again'], None),
                                  ([], f'load_from={path}')):
            refuses('generate_masks', TOY, *arguments,
                    *small(photos, tmp_path / 'w', 1,
                           'train_dataloader.num_workers=0',
                           *[option] * bool(option)), names=path)


@pytest.mark.slow
def test_evaluation(checkpoints, refuses, tmp_path):
    from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
    make_toy_scenes(str(tmp_path / 'toy'), num_train=0, num_val=1)
    for path in kinds(checkpoints, 'tail.pth', 'zip.pth', 'list.pth'):
        refuses('test', DETECTOR.replace('cyborgs-pre', 'random'), path,
                '--work-dir', tmp_path / 'w', '--cfg-options',
                f'data_root={tmp_path}/toy', 'test_dataloader.num_workers=0',
                names=path)


@pytest.mark.slow
def test_annotations_of_scenes(annotations, photos, refuses, tmp_path):
    for path in kinds(annotations, 'pickle.json', 'pickle.pkl', 'yaml.yaml',
                      'deep.json', 'list.json'):
        for tool in ('train', 'generate_masks'):
            refuses(tool, TOY, *small(
                photos, tmp_path / 'w', 1, 'train_dataloader.num_workers=0',
                f'train_dataloader.dataset.ann_file={path}'), names=path)
