"""tools/generate_masks.py and browse_masks.py, beside training itself."""
import os
import os.path as osp
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.mask_bank import round_path

from ..helpers import ROOT, small_config, small_run, write_photo
from ..test_visualization.pages import Parsed, cells, content
from ..warm_python import python

sys.path.insert(0, osp.join(ROOT, 'tools'))
import browse_masks  # noqa: E402
import generate_masks  # noqa: E402
import report  # noqa: E402

OPTIONS = {
    'default_hooks.mask_update.interval': 2,
    'default_hooks.mask_update.max_keep_rounds': 1,
    'default_hooks.mask_update.group_size': 5
}


def call(monkeypatch, tool, *arguments):
    monkeypatch.setattr(sys, 'argv', ['tool', *map(str, arguments)])
    MessageHub._instance_dict.clear()
    tool.main()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run whose last checkpoint (3) is not that of its round's start (2)."""
    root = tmp_path_factory.mktemp('run')
    for number in range(12):
        write_photo(root / 'data' / 'train2017' / f'{number:02d}.png',
                    seed=number)
    small_run(root / 'data', root / 'w', **OPTIONS).train()
    return root


@pytest.fixture
def trained(run, tmp_path):
    """A copy of its work dir."""
    shutil.copytree(run / 'data', tmp_path / 'data')
    work_dir = tmp_path / 'w'
    shutil.copytree(run / 'w', work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_3.pth'))
    small_config(tmp_path / 'data', work_dir, **OPTIONS).dump(
        work_dir / 'cyborgs_toy.py')
    return work_dir


def test_a_start_that_does_not_fit_is_refused(photo_root, tmp_path,
                                              monkeypatch, capsys):
    """mmengine would make masks of random weights."""
    torch.save({'body.0.weight': torch.zeros(3)}, tmp_path / 'start.pth')
    cfg = small_config(photo_root, tmp_path / 'w', **{
        'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint=str(tmp_path / 'start.pth'))})
    cfg.dump(tmp_path / 'config.py')
    with pytest.raises(SystemExit, match='start.pth'):
        call(monkeypatch, generate_masks, tmp_path / 'config.py')
    assert not (tmp_path / 'w' / 'offline_masks').exists()


@pytest.mark.slow
def test_the_same_rounds_as_in_training(trained, tmp_path, monkeypatch):
    config, out = trained / 'cyborgs_toy.py', trained / 'offline_masks'
    rounds = [MaskBank.open(round_path(trained / 'masks', n)) for n in (0, 1)]
    call(monkeypatch, generate_masks, config)
    assert MaskBank.open(out).hash == rounds[0].hash
    call(monkeypatch, generate_masks, config, trained / 'epoch_2.pth',
         '--out-dir', tmp_path / 'out')
    assert MaskBank.open(tmp_path / 'out').hash == rounds[1].hash
    # Of another network: the round that would come next.
    call(monkeypatch, generate_masks, config, trained / 'epoch_3.pth')
    bank = MaskBank.open(out)
    assert bank.round == 2 and bank.manifest['epoch'] == 3
    assert bank.manifest['network'] != rounds[1].manifest['network']


@pytest.mark.slow
def test_the_config_of_the_run_stays(trained, monkeypatch):
    """The run is resumed, and its rounds are made again, from that file."""
    config = trained / 'cyborgs_toy.py'
    before = config.read_bytes()
    call(monkeypatch, generate_masks, config, trained / 'epoch_3.pth',
         '--cfg-options', 'default_hooks.mask_update.source.smooth=16')
    assert MaskBank.open(trained / 'offline_masks').round == 2
    assert config.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize('damage', ['gone', 'altered', 'manifest'])
def test_the_message_of_a_failed_resume_is_true(
        trained, monkeypatch, capsys, damage):
    path = round_path(trained / 'masks', 1)
    for epoch in (1, 2):  # all but the last checkpoint may be gone
        (trained / f'epoch_{epoch}.pth').unlink(missing_ok=True)
    before = {name: open(osp.join(path, name), 'rb').read()
              for name in os.listdir(path)}
    if damage == 'gone':
        shutil.rmtree(path)
    elif damage == 'altered':
        name, = {*before} - {'manifest.json'}
        with open(osp.join(path, name), 'wb') as file:
            file.write(before[name][::-1])
    else:
        with open(osp.join(path, 'manifest.json'), 'wb') as file:
            file.write(before['manifest.json'].replace(b'"seed"', b'"sees"'))

    def resume(name, **options):
        runner = small_run(
            trained.parent / 'data', trained, resume=True,
            experiment_name=name,
            **{**OPTIONS, 'train_cfg.max_epochs': 4, **options})
        runner.train()
        return runner

    with pytest.raises((FileNotFoundError, ValueError)) as error:
        resume('first')
    if damage == 'manifest':  # whole, but not the same: may be used
        assert 'exact_resume=False' in str(error.value)
        resume('inexact', **{
            'default_hooks.mask_update.exact_resume': False,
            'train_cfg.max_epochs': 3})
    command = re.search(r'python tools/generate_masks.py (.* --again)',
                        str(error.value).split('That is, ')[-1])
    call(monkeypatch, generate_masks, *shlex.split(command[1]))
    assert 'It equals the round of the checkpoint' in capsys.readouterr().out
    assert {name: open(osp.join(path, name), 'rb').read()
            for name in os.listdir(path)} == before
    assert resume('second').epoch == 4


def test_another_round_than_the_checkpoint_s_is_told(
        trained, monkeypatch, capsys):
    cv2.imwrite(str(trained.parent / 'data' / 'train2017' / '00.png'),
                np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(SystemExit) as error:
        call(monkeypatch, generate_masks, trained / 'cyborgs_toy.py',
             trained / 'epoch_3.pth', '--again')
    assert error.value.code == 1
    said = capsys.readouterr().out
    assert 'It differs from the round' in said and 'exact_resume=False' in said


def test_a_checkpoint_runs_no_code(trained, tmp_path, monkeypatch):
    """Its source is a registered one, or it is not built."""
    checkpoint = torch.load(trained / 'epoch_3.pth', weights_only=False)
    canary, evil = tmp_path / 'canary', tmp_path / 'evil.pth'
    checkpoint['mask_origin']['source'] = dict(
        type='os.system', command=f'touch {canary}')
    torch.save(checkpoint, evil)
    with pytest.raises(SystemExit, match=(
            "evil.pth: mask_origin.source.type is 'os.system'")):
        call(monkeypatch, generate_masks, trained / 'cyborgs_toy.py', evil,
             '--again')
    assert not canary.exists()


def test_mistakes_are_named(trained, tmp_path, monkeypatch, capsys):
    config = trained / 'cyborgs_toy.py'
    torch.save(dict(state_dict=dict(x=torch.ones(1)), meta={}),
               tmp_path / 'foreign.pth')
    fixed = small_config(tmp_path / 'data', tmp_path / 'fixed')
    fixed.train_dataloader.dataset.mask_bank = str(trained / 'masks')
    fixed.dump(tmp_path / 'fixed.py')
    for arguments, said in (
        ([config, '--again'], 'needs a CHECKPOINT'),
        ([config, tmp_path / 'foreign.pth', '--again'], 'MaskUpdateHook'),
        ([config, tmp_path / 'foreign.pth'], 'foreign.pth does not fit'),
        ([config, tmp_path / 'absent.pth'], 'absent.pth'),
        ([tmp_path / 'fixed.py'], 'fixed masks'),
        ([config, '--cfg-options', 'modle.x=1'], 'did you mean')):
        with pytest.raises(SystemExit) as error:
            call(monkeypatch, generate_masks, *arguments)
        assert error.value.code != 0
        captured = capsys.readouterr()
        assert said in captured.out + captured.err + str(error.value)


@pytest.mark.slow
def test_under_torchrun_the_same_bytes(photo_root, tmp_path, monkeypatch):
    config = tmp_path / 'toy.py'
    small_config(photo_root, tmp_path / 'w', **{
        'default_hooks.mask_update.group_size': 5}).dump(config)
    done = subprocess.run(
        [python(), '-m', 'torch.distributed.run', '--standalone',
         '--nproc_per_node=2', osp.join(ROOT, 'tools', 'generate_masks.py'),
         str(config), '--launcher', 'pytorch'],
        env=dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS='1'),
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('12 images, 0 broken') == 1
    call(monkeypatch, generate_masks, config, '--out-dir', tmp_path / 'one')
    banks = [MaskBank.open(tmp_path / path)
             for path in ('w/offline_masks', 'one')]
    assert banks[0].hash == banks[1].hash


def test_a_contact_sheet_of_two_banks(trained, tmp_path, monkeypatch,
                                      capsys):
    photo_root, out = tmp_path / 'data', tmp_path / 'sheets' / 'masks.png'
    masks = trained / 'masks'
    call(monkeypatch, browse_masks, photo_root, masks / 'round_0000', masks,
         '--num-images', 3, '--out', out)
    assert f'Wrote {out}: 3 images, round 0, round 1' in (
        capsys.readouterr().out)
    two = cv2.imread(str(out))
    call(monkeypatch, browse_masks, photo_root, masks, masks, masks,
         '--keys', 'train2017/03.png', '--out', out)
    assert "1 images, round 1, round 1', round 1''" in capsys.readouterr().out
    four = cv2.imread(str(out))
    assert four.shape[1] * 3 == two.shape[1] * 4
    assert abs(two.shape[0] - 3 * four.shape[0]) <= 3 and two.std() > 0
    (photo_root / 'train2017' / '00.png').write_bytes(b'')
    call(monkeypatch, browse_masks, photo_root, masks, '--num-images', 12,
         '--out', out)
    said = capsys.readouterr().out
    assert 'Left out' in said and '00.png: an empty file' in said
    assert '11 images, round 1' in said
    for arguments, said in (
        ([tmp_path / 'nowhere', masks], 'data_root'),
        ([photo_root, tmp_path / 'nowhere'], 'no such folder'),
        ([photo_root, masks, '--keys', 'train2017/3.png'], 'train2017/03.png')
    ):
        with pytest.raises(SystemExit, match=said):
            call(monkeypatch, browse_masks, *arguments)


def test_pages_of_a_run(trained, monkeypatch, capsys):
    """What a training leaves in its folder is what the pages read."""
    call(monkeypatch, browse_masks, trained)
    assert f'Wrote {trained}/masks.html' in capsys.readouterr().out
    found = content((trained / 'masks.html').read_text())
    assert found['rounds'] == ['round 0, epoch 0', 'round 1, epoch 2']
    keys = [f'train2017/{number:02d}.png' for number in range(12)]
    assert [image['key'] for image in found['images']] == keys
    last = MaskBank.open(trained / 'masks')
    for image in found['images']:
        shown, ids = cells(image, 2)[1], last.label_map(image['key'])
        pairs = {*zip(shown.ravel(), ids.ravel())}
        assert len(pairs) == len(np.unique(ids)) == image['regions'][1]

    call(monkeypatch, report, trained)
    page = Parsed((trained / 'report.html').read_text())
    alts = [attrs['alt'] for attrs, _ in page.all('img')]
    assert alts[0].startswith('loss: from ')
    assert 'lr: from ' in alts[1] and 'num_regions' in ' '.join(alts)
    texts = [text for _, text in page.all('td')]
    assert f'12 in {trained.parent}/data/train2017' in texts
    assert '3 of 3 logged' in texts and str(trained / 'epoch_3.pth') in texts
    assert any('publish_backbone' in text and 'epoch_3.pth' in text
               for _, text in page.all('pre'))
    assert not any('--resume' in text for _, text in page.all('pre'))
