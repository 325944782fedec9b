"""tools/index_photos.py, and training by what it writes."""
import json
import os.path as osp
import subprocess
import sys
import tarfile
from os.path import relpath

import pytest
from mmengine.config import Config

from cyborgs_plugin import __main__ as door
from cyborgs_plugin.datasets import SceneDataset

from ..helpers import ROOT, TOY
from ..warm_python import python

sys.path.insert(0, osp.join(ROOT, 'tools'))
import index_photos  # noqa: E402


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


def test_its_cost_is_measured(tmp_path):
    done = run(osp.join(ROOT, 'tools', 'benchmarks', 'index_speed.py'),
               '--num-images', '20000')
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].split('|')
    assert row[1].strip() == '20000'
    assert float(row[4]) < 1 and float(row[5]) < 20
