"""A run whose mask rounds are in a store, against one with a folder."""
import os.path as osp
import shutil
import sys
from pathlib import Path

import fsspec
import pytest

from cyborgs_plugin.datasets.mask_bank import MaskBank, list_rounds, round_path
from cyborgs_plugin.errors import MissingFileError, UserError

from ..helpers import ROOT, small_config, small_run

sys.path.insert(0, osp.join(ROOT, 'tools'))
import browse_masks  # noqa: E402
import evaluate_masks  # noqa: E402
import export_masks  # noqa: E402
import generate_masks  # noqa: E402
import report  # noqa: E402
import train  # noqa: E402

BANK = 's3://bucket/masks'
FAR = {'default_hooks.mask_update.bank_root': BANK,
       'default_hooks.mask_update.max_keep_rounds': 1}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('CYBORGS_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def hashes(root):
    return {number: MaskBank(round_path(root, number)).hash
            for number in list_rounds(root)}


@pytest.mark.slow
def test_a_run_and_its_resume(s3, cache, photo_root, tmp_path, call):
    """The masks are those of a folder; a machine may lose its copies."""
    small_run(photo_root, tmp_path / 'near').train()
    near = hashes(tmp_path / 'near' / 'masks')
    work = tmp_path / 'w'
    small_run(photo_root, work, **FAR).train()
    assert hashes(BANK) == near and not (work / 'masks').exists()

    files = fsspec.filesystem('s3')
    files.rm('bucket/masks/round_0002/manifest.json')  # as if killed there
    shutil.rmtree(cache)
    (work / 'last_checkpoint').write_text(str(work / 'epoch_2.pth'))
    cfg = small_config(photo_root, work, resume=True, experiment_name='again',
                       **FAR)
    cfg.dump(work / 'cyborgs_toy.py')
    small_run(photo_root, work, resume=True, experiment_name='again',
              **FAR).train()
    del near[0]  # pruned: its checkpoint is gone
    assert hashes(BANK) == near and not (work / 'epoch_1.pth').exists()

    files.rm('bucket/masks/round_0002', recursive=True)
    with pytest.raises(MissingFileError, match='s3://bucket/masks/round_0002 '
                       'is gone: make the round again.*--again'):
        small_run(photo_root, work, resume=True, experiment_name='gone',
                  **FAR, **{'train_cfg.max_epochs': 4}).train()
    call(generate_masks, work / 'cyborgs_toy.py', work / 'epoch_3.pth',
         '--again', '--work-dir', work)
    assert hashes(BANK) == near

    call(browse_masks, work)
    call(report, work)
    assert 'round 2' in (work / 'masks.html').read_text()
    assert 'Wrote' in call(browse_masks, photo_root, BANK, '--out',
                           tmp_path / 'sheet.png')
    assert 'objects in' in call(
        export_masks, work, '--coco', tmp_path / 'objects.json',
        '--min-score', 0, '--min-area', 0, '--max-area', 1, '--max-border', 1)
    scores = evaluate_masks.rounds(Scores(), BANK)
    assert [*scores] == ['round 1', 'round 2']
    call(generate_masks, work / 'cyborgs_toy.py', '--out-dir',
         's3://bucket/offline', '--work-dir', work)
    assert list_rounds('s3://bucket/offline') == [0]
    for path in [*work.rglob('*'), *cache.rglob('*')]:
        assert path.is_dir() or b'geheim' not in path.read_bytes(), path


class Scores:

    def evaluate_bank(self, bank):
        return dict(images=len(bank.keys()))


@pytest.mark.slow
def test_a_new_run_sets_the_rounds_of_another_aside(s3, cache, photo_root,
                                                    tmp_path):
    one = {'train_cfg.max_epochs': 1}
    small_run(photo_root, tmp_path / 'a', **FAR, **one).train()
    first = hashes(BANK)
    small_run(photo_root, tmp_path / 'b', **FAR, **one,
              **{'randomness.seed': 5}).train()
    assert hashes(BANK) != first
    with pytest.raises(UserError, match='set it aside: move the rounds of '
                       's3://bucket/masks/earlier_'):
        small_run(photo_root, tmp_path / 'a', resume=True,
                  experiment_name='again', **FAR,
                  **{'train_cfg.max_epochs': 2}).train()


def test_credentials_are_refused_before_they_are_logged(
        photo_root, tmp_path, call, capsys):
    small_config(photo_root, tmp_path / 'w').dump(tmp_path / 'config.py')
    for option in ('default_hooks.mask_update.bank_root',
                   'train_dataloader.dataset.mask_bank'):
        with pytest.raises(SystemExit, match='give credentials by the env'):
            call(train, tmp_path / 'config.py', '--cfg-options',
                 f'{option}=s3://me:geheim123@bucket/masks')
    said = ''.join(capsys.readouterr())
    assert 'geheim' not in said
    for path in Path(tmp_path).rglob('*'):
        assert path.is_dir() or b'geheim' not in path.read_bytes(), path
