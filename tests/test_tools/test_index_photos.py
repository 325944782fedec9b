"""tools/index_photos.py, and training by what it writes."""
import json
import os.path as osp
import subprocess
import sys
import tarfile
from os.path import relpath

import pytest
import torch
from mmengine.config import Config

from cyborgs_plugin import __main__ as door
from cyborgs_plugin.datasets import SceneDataset

from ..helpers import ROOT, TOY
from ..test_datasets.test_far_shards import store  # noqa: F401  a fixture
from ..warm_python import python

sys.path.insert(0, osp.join(ROOT, 'tools'))
import index_photos  # noqa: E402

SMALL = [
    'train_dataloader.num_workers=0', 'train_dataloader.batch_size=4',
    *(f'train_dataloader.dataset.pipeline.1.transforms.{view}.0.scale=64'
      for view in range(2)),
    'model.backbone.depth=18', 'model.neck.projector.in_channels=896',
    'default_hooks.mask_update.source.layer=layer2.1',
    'default_hooks.checkpoint.save_optimizer=False'
]


def keys(path):
    return [key for key, _ in SceneDataset(index=str(path)).images()]


def run(*words):
    return subprocess.run([python(), *map(str, words)], capture_output=True,
                          text=True)


def pack(path, files):
    with tarfile.open(path, 'w') as tar:
        for file in files:
            tar.add(file, file.name)


def test_a_folder(call, photo_root, tmp_path, monkeypatch):
    path = tmp_path / 'photos.index'
    said = call(index_photos, photo_root, '--out', path)
    assert f'{path}: 12 photographs of {photo_root}, ' in said
    assert 'size in pixels of 12\nTrain with --cfg-options train_' in said
    assert keys(path) == [f'train2017/{number:02d}.png'
                          for number in range(12)]
    # The front door has it, too, with a dash.
    monkeypatch.setattr('cyborgs_plugin.commands.DOOR', [])
    monkeypatch.setattr(sys, 'argv', [
        'cyborgs', 'index-photos', str(photo_root), '--out', str(path),
        '--extensions', 'jpg'])
    with pytest.raises(SystemExit, match='No image in .*: 12 .png'):
        door.main()


def test_a_folder_of_tar_files(call, photo_root, tmp_path):
    files = sorted((photo_root / 'train2017').iterdir())
    shards = tmp_path / 'shards'
    (shards / 'sub').mkdir(parents=True)
    pack(shards / 'b.tar', files[:5])
    pack(shards / 'sub' / 'a.tar', files[5:])
    path = tmp_path / 'photos.index'
    said = call(index_photos, shards, '--out', path)
    assert f'12 photographs in 2 tar files of {shards}, ' in said
    assert keys(path) == [file.name for file in files]
    # by their names, and anew by the command that the index gives
    call(index_photos, shards / 'b.tar', '--out', path, '--no-sizes')
    assert keys(path) == [file.name for file in files[:5]]
    made = json.loads((path / 'photo_index.json').read_text())['made_by']
    assert made == [str(shards / 'b.tar'), '--no-sizes']


@pytest.mark.parametrize('names, found', [
    (['mixed'], 'holds photographs and tar files, such as a.tar'),
    (['mixed', 'mixed'], 'PHOTOS must be one folder'),
    (['none'], 'neither a folder nor a tar file'),
    (['none.tar'], "none.tar' does not exist"),
    (['empty'], 'No image in .*: no file'),
])
def test_what_it_refuses(call, photo_root, tmp_path, names, found):
    (tmp_path / 'empty').mkdir()
    (photo_root / 'train2017').rename(tmp_path / 'mixed')
    pack(tmp_path / 'mixed' / 'a.tar', [])
    with pytest.raises(SystemExit, match=found):
        call(index_photos, *(tmp_path / name for name in names), '--out',
             tmp_path / 'i')
    assert not (tmp_path / 'i').exists()


@pytest.mark.slow
def test_training_by_it(call, photo_root, tmp_path):
    call(index_photos, photo_root / 'train2017', '--out', tmp_path / 'p.index')
    done = run(
        osp.join(ROOT, 'tools', 'train.py'), TOY, '--work-dir',
        tmp_path / 'run', '--cfg-options',
        f'train_dataloader.dataset.index={relpath(tmp_path / "p.index")}',
        'train_cfg.max_epochs=1', 'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=1')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
    config = Config.fromfile(tmp_path / 'run' / 'cyborgs_toy.py')
    assert config.train_dataloader.dataset.index == str(tmp_path / 'p.index')
    assert 'p.index: 12 photographs of' in done.stdout + done.stderr


@pytest.mark.slow
def test_training_by_windows_of_a_store(
        store, call, photo_root, tmp_path):  # noqa: F811
    """The ablation, by the front door's command: each tar file comes once."""
    (tmp_path / 'tars').mkdir()
    files = sorted((photo_root / 'train2017').iterdir())
    urls = []
    for number in range(3):
        pack(tmp_path / 'tars' / f'{number}.tar', files[number::3])
        urls.append(f'{store.url}/tars/{number}.tar')
    call(index_photos, *urls, '--out', tmp_path / 'p.index')
    store.asked.clear()
    done = run(
        '-m', 'cyborgs_plugin', 'train',
        'cyborgs_plugin::ablations/order_window8.py', '--work-dir',
        tmp_path / 'run', '--cfg-options', 'train_cfg.max_epochs=1',
        f'train_dataloader.dataset.index={tmp_path / "p.index"}',
        f'train_dataloader.dataset.cache={tmp_path / "kept"}',
        'train_dataloader.dataset.cache_tars=True', *SMALL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
    whole = [path for path, asked in store.asked if asked is None]
    assert sorted(whole) == [f'/tars/{number}.tar' for number in range(3)]
    saved = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=False)
    order = saved['message_hub']['runtime_info']['order_of_images']
    assert (order['window'], order['streams']) == (8, 1)


@pytest.mark.parametrize('options, says', [
    (('--files', '20', '--per-file', '40', '--windows', '2', '--processes',
      '2', '--batch-size', '4', '--caches', '8'), '| full shuffle | '),
    (('--memory', '20000'), '| SceneSampler window=8 | ')])
def test_the_randomness_of_an_order_is_measured(options, says):
    done = run(osp.join(ROOT, 'tools', 'benchmarks', 'image_order.py'),
               *options)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith(says)
    if 'full' in says:
        first = done.stdout.splitlines()[-2].split('|')
        window, files, pairs, apart, reads = map(float, first[1:-1])
        assert (window, reads) == (2, 1)
        assert 2 < files <= 5 and pairs > 100 * 39 / 799
        # half a window of 80 of 400 steps, less what neighbours overlap
        assert 100 * 80 / 400 * 0.2 < apart < 100 * 80 / 400 * 0.4
        apart, reads = map(float, last.split('|')[-3:-1])
        assert 25 < apart < 34 and reads > 15  # 29.3, of a full shuffle
