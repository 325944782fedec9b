"""tools/pretrain.py: from photographs to a finished run, and on from there."""
import os
import os.path as osp
import sys
import tarfile

import pytest
import torch
from mmengine.config import Config

from cyborgs_plugin.advice import plan
from cyborgs_plugin.advice.machine import Machine
from cyborgs_plugin.advice.networks import Network, network_of
from cyborgs_plugin.advice.trial import Trial
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT, write_photo

sys.path.insert(0, osp.join(ROOT, 'tools'))
import index_photos  # noqa: E402
import pretrain  # noqa: E402


@pytest.fixture
def photos(tmp_path):
    for number in range(13):
        write_photo(tmp_path / 'photos' / f'{number:02}.jpg', (72, 96),
                    number)
    (tmp_path / 'photos' / 'broken.jpg').write_bytes(b'<html>')
    return tmp_path / 'photos'


@pytest.fixture
def idle(monkeypatch):
    """A machine, and what a step costs on it, without measuring."""
    monkeypatch.setattr(pretrain, 'look_at_machine',
                        lambda: Machine(2, 0., 10**10))
    monkeypatch.setattr(
        pretrain, 'measure', lambda cfg, indices, batch: Trial(
            1., 0.01, 0.05, 10**9, 2 * 10**8, 5000.))


def test_a_dry_run_says_all_and_writes_the_config(
        call, photos, tmp_path, idle):
    run = tmp_path / 'run'
    said = call(pretrain, photos, '--out', run, '--dry-run')
    for part in ('14, all were read: 96x72 pixels; 1 unreadable',
                 'an HTML page', 'Machine: 2 CPU cores', 'resnet18',
                 'Probably not worth it', f'Config: {run}/config.py',
                 'Nothing was trained', f'{run}/config.py --work-dir'):
        assert part in ' '.join(said.split()), part
    assert os.listdir(run) == ['config.py']
    cfg = Config.fromfile(str(run / 'config.py'))
    assert cfg.train_dataloader.dataset.data_prefix.img_path == str(photos)
    # a second plan replaces it; one that was changed it does not
    call(pretrain, photos, '--out', run, '--dry-run', '--backbone',
         'resnet50', '--budget', '10m')
    cfg = Config.fromfile(str(run / 'config.py'))
    assert cfg.model.backbone.depth == 50
    (run / 'config.py').write_text('# mine')
    with pytest.raises(SystemExit, match='changed by hand'):
        call(pretrain, photos, '--out', run, '--dry-run')


def test_several_processes_are_started_by_torchrun(
        call, photos, tmp_path, idle, monkeypatch):
    seen = []
    monkeypatch.setattr(os, 'execv', lambda *words: seen.append(words))
    call(pretrain, photos, '--out', tmp_path / 'run', '--gpus', 2)
    (program, words), = seen
    assert program == sys.executable
    assert words[1:5] == ['-m', 'torch.distributed.run', '--standalone',
                          '--nproc_per_node=2']
    assert words[5].endswith('train.py') and osp.isfile(words[5])
    assert words[6:] == [f'{tmp_path}/run/config.py', '--work-dir',
                         f'{tmp_path}/run', '--launcher', 'pytorch']
    cfg = Config.fromfile(words[6])
    assert cfg.train_dataloader.batch_size == 2  # of 4


def test_what_to_run_next_has_as_many_processes(
        call, photos, tmp_path, idle, monkeypatch):
    run = tmp_path / 'a b'
    said = call(pretrain, photos, '--out', run, '--gpus', 2, '--dry-run')
    assert '--nproc_per_node=2 ' in said
    assert f"'{run}/config.py' --work-dir '{run}' --launcher" in said
    monkeypatch.setattr(os, 'execv', lambda *words: None)
    said = call(pretrain, photos, '--out', run, '--gpus', 2)
    assert f"--out '{run}' --gpus 2 --resume\n" in said


def test_a_batch_without_room_is_measured_again(
        call, photos, tmp_path, idle, monkeypatch):
    for number in range(13, 70):
        write_photo(photos / f'{number}.jpg', (72, 96), number)
    measure, asked = pretrain.measure, []

    def short_of_memory(cfg, indices, batch):
        asked.append(batch)
        if batch > 8:
            raise torch.cuda.OutOfMemoryError('no room')
        return measure(cfg, indices, batch)

    monkeypatch.setattr(pretrain, 'measure', short_of_memory)
    said = call(pretrain, photos, '--out', tmp_path / 'run', '--dry-run')
    assert asked == [32, 16, 8] and '8 photographs per step' in said
    assert 'fits into the memory' in (tmp_path / 'run/config.py').read_text()
    # as beside torch 2.1, which has that name alone
    monkeypatch.delattr(torch, 'OutOfMemoryError', raising=False)
    with pytest.raises(SystemExit, match='Give more time'):
        call(pretrain, photos, '--out', tmp_path / 'run', '--budget', '1s')


@pytest.mark.parametrize('option', [
    ['--dry-run'], ['--budget', '1h'], ['--backbone', 'resnet50']])
def test_a_run_goes_on_by_its_own_plan(call, photos, tmp_path, idle, option):
    call(pretrain, photos, '--out', tmp_path / 'run', '--dry-run')
    with pytest.raises(SystemExit, match=f'{option[0]} is for a new plan'):
        call(pretrain, photos, '--out', tmp_path / 'run', '--resume', *option)


@pytest.mark.parametrize('words, said', [
    (['--budget', 'soon'], 'with its unit'),
    (['--backbone', 'resnet9'], 'there are resnet18, resnet50, convnext'),
    (['--start', 'nowhere.pth'], 'no such file'),
    (['--backbone', 'timm:resnet9'], 'has no network .resnet9.'),
    (['--start', 'timm:resnet9'], 'timm has no model of this name'),
    (['--resume'], 'there is no .*config.py'),
    (['--budget', '21s'], 'more than the 21 s')])
def test_mistakes_are_named(call, photos, tmp_path, idle, words, said):
    with pytest.raises(SystemExit, match=said):
        call(pretrain, photos, '--out', tmp_path / 'run', *words)
    assert not (tmp_path / 'run').exists()


def test_the_network_of_a_file_is_found(tmp_path):
    from torchvision.models import resnet18
    path = str(tmp_path / 'w.pth')
    torch.save(resnet18(weights=None).state_dict(), path)
    network, how = network_of(path, None)
    assert network.name == 'resnet18' and how
    with pytest.raises(UserError, match='does not fit'):
        network_of(path, Network('resnet50'))
    torch.save(dict(state_dict={'x.weight': torch.ones(3)}), path)
    with pytest.raises(UserError, match='name its network with --backbone'):
        network_of(path, None)


@pytest.mark.slow
def test_a_run_on_an_index_of_tar_files(call, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, 'epochs_for', lambda *given: 1)
    (tmp_path / 'tars').mkdir()
    with tarfile.open(tmp_path / 'tars' / '0.tar', 'w') as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
    with pytest.raises(SystemExit, match='Make an index of the tar files'):
        call(pretrain, tmp_path / 'tars', '--out', tmp_path / 'run')
    index, run = tmp_path / 'photos.index', tmp_path / 'run'
    call(index_photos, tmp_path / 'tars', '--out', index)
    said = call(pretrain, index, '--out', run)
    assert 'Photographs: 14, all were read: 96x72 pixels; 1 unreadable' in said
    assert '0.tar::broken.jpg' in said
    assert (run / 'epoch_1.pth').is_file()
    with pytest.raises(SystemExit, match='is of the photographs in'):
        call(pretrain, photos, '--out', run, '--resume')


@pytest.mark.slow
def test_a_run_ends_and_is_resumed(call, photos, tmp_path, monkeypatch):
    """Measured, planned, trained for two epochs; then a third one."""
    monkeypatch.setattr(plan, 'epochs_for', lambda *given: 2)
    run = tmp_path / 'run'
    said = call(pretrain, photos, '--out', run)
    assert 'about' in said and 'per checkpoint' in said
    assert (run / 'epoch_2.pth').is_file()
    # the disk that the plan has counted
    counted = float(said.split(' MB per checkpoint')[0].split()[-1])
    size = (run / 'epoch_2.pth').stat().st_size / 1e6
    assert counted == pytest.approx(size, rel=0.05)
    # what was written is still there, beside all settings
    text = (run / 'config.py').read_text()
    assert '_base_' in text and (run / 'config_full.py').is_file()
    with pytest.raises(SystemExit, match='holds a run already.*--resume'):
        call(pretrain, photos, '--out', run)
    with pytest.raises(SystemExit, match='is of the photographs in'):
        call(pretrain, tmp_path, '--out', run, '--resume')
    (run / 'config.py').write_text(
        text.replace('max_epochs=2', 'max_epochs=3'))
    call(pretrain, photos, '--out', run, '--resume')
    assert (run / 'epoch_3.pth').is_file()
    assert sorted(path.name for path in (run / 'masks').iterdir()) == [
        'round_0000', 'round_0001', 'round_0002']
