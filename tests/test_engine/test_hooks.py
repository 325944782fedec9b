"""Hooks in real runs: rounds, workers, resume, target updates."""
import logging
import os
import os.path as osp
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.index_making import index_folder
from cyborgs_plugin.datasets.mask_bank import list_rounds, round_path
from cyborgs_plugin.engine import MaskUpdateHook, mask_update_hook
from cyborgs_plugin.errors import MissingFileError, UserError
from cyborgs_plugin.segmentation import (
    FeatureExtractor,
    GridMasks,
    MaskRoundError,
    make_round,
)
from cyborgs_plugin.segmentation.round_origin import RoundOrigin

from ..helpers import (
    OneWeight,
    images_of,
    in_processes,
    small_run,
    write_photo,
)


def test_rounds_are_made_used_and_remembered(photo_root, tmp_path):
    runner = small_run(photo_root, tmp_path / 'w')
    runner.train()
    masks = str(tmp_path / 'w' / 'masks')
    assert list_rounds(masks) == [0, 1, 2]
    bank = MaskBank.open(masks)
    saved = torch.load(
        tmp_path / 'w' / 'epoch_3.pth', weights_only=False)['message_hub']
    assert saved['runtime_info']['mask_round'] == 2
    assert saved['runtime_info']['mask_hash'] == bank.hash
    assert bank.manifest['epoch'] == 2
    dataset = runner.train_loop.dataloader.dataset
    assert dataset.mask_bank.round == 2


def test_resume_goes_on_with_the_same_round(photo_root, tmp_path):
    small_run(photo_root, tmp_path / 'w').train()
    masks = str(tmp_path / 'w' / 'masks')
    hashes = [MaskBank.open(round_path(masks, n)).hash for n in range(3)]
    # as if killed after epoch 2, and with the update to come
    (tmp_path / 'w' / 'last_checkpoint').write_text(
        str(tmp_path / 'w' / 'epoch_2.pth'))
    shutil.rmtree(round_path(masks, 2))
    again = small_run(photo_root, tmp_path / 'w', resume=True,
                      experiment_name='again')
    again.train()
    assert again.epoch == 3
    assert again.message_hub.get_info('mask_round') == 2
    assert hashes == [
        MaskBank.open(round_path(masks, n)).hash for n in range(3)]


def test_a_run_that_began_with_format_1_goes_on_with_it(photo_root, tmp_path):
    masks = str(tmp_path / 'w' / 'masks')

    def formats():
        return [MaskBank.open(round_path(masks, number)).format_version
                for number in list_rounds(masks)]

    small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1,
        'default_hooks.mask_update.bank_format': 1}).train()
    path = tmp_path / 'w' / 'epoch_1.pth'
    saved = torch.load(path, weights_only=False)
    assert saved['mask_origin'].pop('bank_format') == 1
    torch.save(saved, path)  # as an older version writes it
    small_run(photo_root, tmp_path / 'w', resume=True,
              experiment_name='again', **{'train_cfg.max_epochs': 2}).train()
    assert formats() == [1, 1]
    saved = torch.load(tmp_path / 'w' / 'epoch_2.pth', weights_only=False)
    assert saved['mask_origin']['bank_format'] == 1
    # A new run uses no round of it, not even the same round 0.
    small_run(photo_root, tmp_path / 'w', experiment_name='new', **{
        'train_cfg.max_epochs': 1}).train()
    assert formats() == [2]


@pytest.mark.parametrize('local_rank', ['0', '1'])
def test_each_machine_verifies_once(photo_root, tmp_path, monkeypatch,
                                    local_rank):
    """Its first process does; the others wait for it."""
    small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1}).train()
    path = tmp_path / 'w' / 'masks' / 'round_0000' / 'part_00000_0000.masks'
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    monkeypatch.setenv('LOCAL_RANK', local_rank)
    runner = small_run(photo_root, tmp_path / 'w', resume=True,
                       experiment_name='again')
    monkeypatch.setattr(MaskUpdateHook, '_use', lambda *_: sys.exit('used'))
    with pytest.raises(SystemExit if local_rank == '1' else ValueError,
                       match='used|part_00000_0000.masks.* is altered'):
        runner.train()


def change_photos(photo_root):
    """One picture goes, one comes, one gives its place to another."""
    folder = photo_root / 'train2017'
    (folder / '03.png').unlink()
    write_photo(folder / 'more.png', seed=40)
    write_photo(folder / '05.png', (30, 80), seed=41)


CHANGED = [rf"1 {what}, such as \['train2017/{name}.png'\]" for what, name in
           (('gone', '03'), ('new', 'more'), ('replaced', '05'))]


@pytest.mark.slow
def test_resume_names_images_that_changed(photo_root, tmp_path, monkeypatch):
    options = {'default_hooks.mask_update.interval': 2,
               'default_hooks.mask_update.initial': dict(type='GridMasks')}
    work, masks = tmp_path / 'w', str(tmp_path / 'w' / 'masks')
    small_run(photo_root, work, **options, **{
        'train_cfg.max_epochs': 1}).train()
    before = {key: (photo_root / key).read_bytes()
              for key in MaskBank.open(masks).keys()}
    change_photos(photo_root)

    def resume(name, epochs, **more):
        runner = small_run(
            photo_root, work, resume=True, experiment_name=name,
            **{**options, 'train_cfg.max_epochs': epochs, **more})
        logged = []
        monkeypatch.setattr(runner.logger, 'warning', logged.append)
        runner.train()
        return runner, [text for text in logged if 'images' in str(text)]

    with pytest.raises(UserError, match='.*'.join(CHANGED) + '.*'
                       'default_hooks.mask_update.resume_data=new'):
        resume('exact', 2)
    assert list_rounds(masks) == [0]
    new = {'default_hooks.mask_update.resume_data': 'new'}
    runner, logged = resume('new', 2, **new)
    assert len(logged) == 1 and re.search('.*'.join(CHANGED), logged[0])
    bank = runner.train_loop.dataloader.dataset.mask_bank
    assert (bank.round, bank.manifest['epoch'], len(bank)) == (1, 1, 12)
    # The first masks' source still: the first update is not due.
    assert bank.manifest['source']['type'] == 'GridMasks'
    assert 'train2017/more.png' in bank and 'train2017/03.png' not in bank
    # Nothing has changed since, so that either way goes on exactly.
    runner, logged = resume('same', 2)
    assert list_rounds(masks) == [0, 1] and not logged
    # Back again, where an update is due anyway: it is made once.
    (photo_root / 'train2017' / 'more.png').unlink()
    for key, content in before.items():
        (photo_root / key).write_bytes(content)
    runner, logged = resume('back', 3, **new)
    assert len(logged) == 1 and list_rounds(masks) == [0, 1, 2]
    bank = MaskBank.open(masks)
    assert bank.manifest['source']['type'] == 'NetworkMasks'
    assert bank.manifest['epoch'] == 2 and bank.keys() == sorted(before)


@pytest.mark.slow
def test_resume_of_an_older_checkpoint_compares_names(photo_root, tmp_path):
    """It does not know of replaced files."""
    small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1}).train()
    path = tmp_path / 'w' / 'epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    assert len(checkpoint['mask_origin'].pop('file_sizes')) == 12
    torch.save(checkpoint, path)
    photo = photo_root / 'train2017' / '05.png'
    write_photo(photo, (64, 50), seed=9)
    small_run(photo_root, tmp_path / 'w', resume=True, experiment_name='2',
              **{'train_cfg.max_epochs': 2}).train()
    photo.unlink()
    with pytest.raises(UserError, match=r"1 gone, such as .*05.png'\]\. "):
        small_run(photo_root, tmp_path / 'w', resume=True,
                  experiment_name='3').train()


def test_resume_notes_a_photo_of_the_same_size(photo_root, tmp_path):
    folder = photo_root / 'train2017'
    for path in folder.iterdir():  # whose sizes tell nothing
        Image.open(path).save(path, 'BMP')
    small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1}).train()
    size = (folder / '05.png').stat().st_size
    write_photo(folder / '05.png', seed=77)
    Image.open(folder / '05.png').save(folder / '05.png', 'BMP')
    assert (folder / '05.png').stat().st_size == size
    with pytest.raises(UserError, match=r"1 replaced, such as .*05.png'\]"):
        small_run(photo_root, tmp_path / 'w', resume=True,
                  experiment_name='2').train()


def test_resume_by_the_fingerprint_of_an_index(photo_root, tmp_path):
    """Its checkpoints hold nothing per photograph."""
    index, other = (str(tmp_path / name) for name in ('p.index', 'o.index'))
    listed = 'train_dataloader.dataset.index'
    index_folder(str(photo_root), index)
    small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1, listed: index}).train()
    origin = torch.load(tmp_path / 'w' / 'epoch_1.pth',
                        weights_only=False)['mask_origin']
    assert origin['file_sizes'] is None and origin['file_marks'] is None

    def resume(name, **options):  # and only compare, there is no epoch left
        small_run(photo_root, tmp_path / 'w', resume=True,
                  experiment_name=name,
                  **{'train_cfg.max_epochs': 1, **options}).train()

    resume('index', **{listed: index})
    resume('folder')  # of the same photographs
    write_photo(photo_root / 'train2017' / '05.png', (64, 50), seed=9)
    index_folder(str(photo_root), other)
    for options in ({}, {listed: other}):
        with pytest.raises(UserError, match='some replaced, since files have'):
            resume(f'replaced{len(options)}', **options)
    (photo_root / 'train2017' / '05.png').unlink()
    with pytest.raises(UserError, match=r"1 gone, such as .*05.png'\]\. "):
        resume('gone')


@pytest.mark.slow
def test_joined_folders_with_equal_names_are_refused(photo_root, tmp_path):
    """Before a round is made, with both paths and the way out."""
    shutil.copytree(photo_root, tmp_path / 'more')
    runner = small_run(photo_root, tmp_path / 'w')
    part = runner.cfg.train_dataloader.dataset
    folders = [str(root / 'train2017') for root in
               (photo_root, tmp_path / 'more')]

    def start(name, *parts):
        small_run(photo_root, tmp_path / name, experiment_name=name, **{
            'train_cfg.max_epochs': 1, 'train_dataloader.dataset': dict(
                type='ConcatDataset', _delete_=True, datasets=[
                    {**part, 'data_prefix': dict(img_path=path), **more}
                    for path, more in parts])}).train()

    with pytest.raises(UserError, match=f"{folders[0]}/00.png and "
                       f"{folders[1]}/00.png .*'00.png'.*one data set"):
        start('a', (folders[0], {}), (folders[1], {}))
    assert not osp.exists(tmp_path / 'a' / 'masks')
    with pytest.raises(UserError, match='00.png is in two of the data sets'):
        start('b', (folders[0], {}), (folders[0], {}))
    small_run(photo_root, tmp_path / 'both', experiment_name='both', **{
        'train_cfg.max_epochs': 1, 'train_dataloader.dataset.data_prefix':
        dict(img_path=folders)}).train()
    assert len(MaskBank.open(tmp_path / 'both' / 'masks')) == 24
    common = dict(data_root=osp.commonpath(folders))
    start('c', *((osp.relpath(folder, common['data_root']), common)
                 for folder in folders))
    assert len(MaskBank.open(tmp_path / 'c' / 'masks')) == 24


@pytest.mark.slow
def test_two_ranks_resume_with_images_that_changed(photo_root, tmp_path):
    from . import test_kills as kills
    codes, logs = kills.run(photo_root, tmp_path / 'w', 1, None, 2)
    assert codes == [0, 0], logs[0][-3000:]
    change_photos(photo_root)
    codes, logs = kills.run(photo_root, tmp_path / 'w', 2, None, 2)
    assert codes == [1, 1]
    for log in logs:
        assert re.search('UserError.*' + '.*'.join(CHANGED), log), log[-3000:]
    codes, logs = kills.run(photo_root, tmp_path / 'w', 2, None, 2, **{
        'default_hooks.mask_update.resume_data': 'new'})
    assert codes == [0, 0], logs[0][-3000:]
    assert 'train2017/more.png' in MaskBank.open(tmp_path / 'w' / 'masks')


def test_broken_images_stop_the_run(photo_root, tmp_path):
    """Before its masks are published; an option goes on all the same."""
    for number in range(3):
        (photo_root / 'train2017' / f'{number:02d}.png').write_bytes(b'')
    with pytest.raises(MaskRoundError, match=r'2 of the (?s:.*)empty file'):
        small_run(photo_root, tmp_path / 'w').train()
    assert list_rounds(tmp_path / 'w' / 'masks') == []
    small_run(photo_root, tmp_path / 'w', experiment_name='2', **{
        'train_cfg.max_epochs': 1,
        'default_hooks.mask_update.max_broken': 0.25}).train()
    assert list_rounds(tmp_path / 'w' / 'masks') == [0]


@pytest.mark.slow
def test_a_fresh_run_sets_the_rounds_of_an_earlier_one_aside(
        photo_root, tmp_path, monkeypatch):
    work_dir, masks = tmp_path / 'w', str(tmp_path / 'w' / 'masks')

    def start(seed, epochs, **options):
        runner = small_run(photo_root, work_dir, **{
            'train_cfg.max_epochs': epochs, 'randomness.seed': seed,
            'experiment_name': f'{seed} {epochs} {options}', **options})
        logged = []
        monkeypatch.setattr(runner.logger, 'warning', logged.append)
        runner.train()
        return [text for text in logged if 'earlier run' in str(text)]

    def earlier():
        return sorted(work_dir.glob('masks/earlier_*'), key=os.path.getmtime)

    def hashes(folder=masks):
        return [MaskBank(round_path(folder, number), verify=True).hash
                for number in list_rounds(folder)]

    assert not start(0, 3) and list_rounds(masks) == [0, 1, 2]
    first = hashes()
    assert not start(0, 4, resume=True) and not earlier()
    first = hashes()
    assert len(first) == 4
    # Other masks from the start: the older run's are kept, and apart.
    warned = start(1, 2)
    assert list_rounds(masks) == [0, 1] and not set(hashes()) & set(first)
    folder, = earlier()
    assert hashes(folder) == first
    assert len(warned) == 1 and str(folder) in warned[0]
    assert 'earlier run (4)' in warned[0] and '--resume' in warned[0]
    # The very same round 0 stays.
    kept = MaskBank(round_path(masks, 0))
    inode, second = os.stat(kept.path).st_ino, hashes()
    warned = start(1, 1)
    assert os.stat(kept.path).st_ino == inode and list_rounds(masks) == [0]
    assert len(earlier()) == 2 and hashes(earlier()[1]) == second[1:]
    assert len(warned) == 1 and 'earlier run (1)' in warned[0]
    # As if killed after its round 0: nothing to set aside.
    assert not start(1, 1) and len(earlier()) == 2
    # Who wants to go on with the first run reads where its masks are.
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_4.pth'))
    with pytest.raises(FileNotFoundError, match=(
            f'round 3.*gone.*rounds of {folder} back to {masks}')):
        start(0, 5, resume=True)
    shutil.rmtree(round_path(masks, 0))
    for path in folder.iterdir():
        path.rename(osp.join(masks, path.name))
    assert not start(0, 5, resume=True)
    assert hashes()[:4] == first and list_rounds(masks) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_setting_aside_by_two_that_is_killed(photo_root, tmp_path,
                                             monkeypatch):
    """Rank 0 dies between two renames: the next start is right."""
    from . import test_kills as kills
    monkeypatch.setitem(kills.STEPS, 'setting aside',
                        (os, 'rename', r'earlier_\d+_\d+/round_\d+$', None))
    work_dir, masks = tmp_path / 'w', str(tmp_path / 'w' / 'masks')

    def start(seed, fault=None):
        return kills.run(photo_root, work_dir, 3, fault, 2, resume=False,
                         **{'randomness.seed': seed})

    def rounds():
        folders = [masks, *work_dir.glob('masks/earlier_*')]
        return sorted(
            MaskBank(round_path(folder, number), verify=True).hash
            for folder in folders for number in list_rounds(folder))

    codes, logs = start(0)
    assert codes == [0, 0], logs[0][-3000:]
    first = rounds()
    codes, logs = start(1, (0, 'setting aside', 2, kills.kill))
    assert codes[0] == -9 and codes[1] == 1, logs[1][-3000:]
    assert list_rounds(masks) == [1, 2] and rounds() == first
    codes, logs = start(1)
    assert codes == [0, 0], logs[0][-3000:]
    assert list_rounds(masks) == [0, 1, 2]
    assert set(first) < set(rounds()) and len(rounds()) == 6
    assert 'of an earlier run (2)' in logs[0]
    assert 'earlier run (' not in logs[1]


def test_making_a_round_by_hand_sets_nothing_aside(photo_root, tmp_path):
    small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 2}).train()
    runner = small_run(photo_root, tmp_path / 'w', experiment_name='again',
                       **{'randomness.seed': 1})
    runner.train_loop  # noqa: B018
    runner._init_model_weights()
    hook, = (hook for hook in runner.hooks
             if isinstance(hook, MaskUpdateHook))
    hook.find_data(runner)  # as tools/generate_masks.py does
    hook.make(runner, 0, hook.initial_cfg, 0, 0)
    assert sorted(os.listdir(tmp_path / 'w' / 'masks')) == [
        'round_0000', 'round_0001']


def test_masks_do_not_depend_on_batches_and_workers(photo_root, tmp_path):
    hashes = set()
    for number, (batch, workers) in enumerate([(4, 0), (3, 2)]):
        runner = small_run(photo_root, tmp_path / str(number), **{
            'train_dataloader.batch_size': batch,
            'train_dataloader.num_workers': workers
        })
        runner.train_loop  # noqa: B018
        runner._init_model_weights()
        for hook in runner.hooks:
            if isinstance(hook, MaskUpdateHook):
                hook.before_train(runner)
                hashes.add(hook.bank.hash)
    assert len(hashes) == 1


class Nans:
    """Makes the features of the n-th group NaN."""

    def __init__(self, monkeypatch, nth):
        self.calls, self.nth = 0, nth
        original = FeatureExtractor.each

        def features(extractor, images):
            self.calls += 1
            scale = float('nan') if self.calls == self.nth else 1
            for index, maps in original(extractor, images):
                yield index, maps * scale

        monkeypatch.setattr(FeatureExtractor, 'each', features)


def test_nan_features_keep_the_old_round(photo_root, tmp_path, monkeypatch):
    Nans(monkeypatch, 4)  # round 0 has three groups
    runner = small_run(photo_root, tmp_path / 'w', **{
        'default_hooks.mask_update.group_size': 4,
        # which computes features as well
        'default_hooks.health.interval': -1})
    logged = []
    monkeypatch.setattr(runner.logger, 'error', logged.append)
    runner.train()
    assert len(logged) == 1
    assert re.search(r"NO NEW MASKS: .*'train2017/\d\d.png'.*continues with "
                     'mask round 0 of epoch 0', logged[0], re.S)
    hubs = [
        torch.load(tmp_path / 'w' / f'epoch_{epoch}.pth',
                   weights_only=False)['message_hub']['runtime_info']
        for epoch in (2, 3)
    ]
    assert [hub['mask_round'] for hub in hubs] == [0, 1]
    bank = MaskBank.open(tmp_path / 'w' / 'masks')
    assert bank.round == 1 and bank.manifest['epoch'] == 2


def test_nan_features_of_a_measurement_end_nothing(photo_root, tmp_path,
                                                   monkeypatch):
    nans = Nans(monkeypatch, 4)  # the pictures that HealthHook segments
    runner = small_run(photo_root, tmp_path / 'w', **{
        'default_hooks.mask_update.group_size': 4,
        'train_cfg.max_epochs': 1})
    logged = []
    monkeypatch.setattr(runner.logger, 'warning', logged.append)
    runner.train()
    assert nans.calls >= 4 and any(
        'Agreement was not measured' in str(line) for line in logged)


def test_nan_features_at_the_start_end_the_run(photo_root, tmp_path,
                                               monkeypatch):
    Nans(monkeypatch, 1)
    with pytest.raises(MaskRoundError, match=r"'train2017/\d\d.png'"):
        small_run(photo_root, tmp_path / 'w').train()


def test_one_line_is_logged_a_round(photo_root, tmp_path, monkeypatch):
    runner = small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 2})
    logged = []
    monkeypatch.setattr(runner.logger, 'info', logged.append)
    runner.train()
    lines = [line for line in logged if str(line).startswith('Mask round')]
    assert len(lines) == 2
    masks = str(tmp_path / 'w' / 'masks')
    maps = [[bank.label_map(key) for key in bank.keys()] for bank in (
        MaskBank.open(round_path(masks, number)) for number in range(2))]
    for number, line in enumerate(lines):
        found = re.fullmatch(
            rf'Mask round {number}: 12 images, 0 broken, K (\d+) to \1 \(mean '
            r'\1\.0\), ([\d.]+) regions per image, [\d.]+ s \([\d.]+ s per '
            r'image\)(, ARI ([\d.-]+) with round 0 \(12 images\))?, [\d.]+ GB '
            r'free, mask rounds took [\d.]+% of the run so far', line)
        assert found, line
        assert int(found[1]) == 1 + max(ids.max() for ids in maps[number])
        assert float(found[2]) == pytest.approx(np.mean(
            [len(np.unique(ids)) for ids in maps[number]]), abs=0.06)
        if number == 1:
            scores = [adjusted_rand_score(old.ravel(), new.ravel())
                      for old, new in zip(*maps)]
            assert float(found[4]) == pytest.approx(
                np.mean(scores), abs=6e-4)


@pytest.mark.parametrize('interval, start, expected', [
    (2, 0, [2, 4, 6]), (2, 1, [1, 3, 5, 7]), (3, 4, [4, 7]), (-1, 0, []),
    (-1, 2, []), (100, 2, [2])])
def test_when_rounds_are_due(interval, start, expected):
    hook = MaskUpdateHook(interval, start)
    assert [epoch for epoch in range(8) if hook.is_due(epoch)] == expected


def test_interval_minus_one_keeps_the_initial_masks(photo_root, tmp_path):
    runner = small_run(
        photo_root, tmp_path / 'w', **{
            'default_hooks.mask_update.interval': -1,
            'default_hooks.mask_update.initial': dict(type='GridMasks')
        })
    runner.train()
    assert list_rounds(str(tmp_path / 'w' / 'masks')) == [0]
    bank = runner.train_loop.dataloader.dataset.mask_bank
    assert bank.label_map('train2017/00.png').tolist() == np.arange(
        16).reshape(4, 4).tolist()


def test_pruning_spares_the_rounds_of_checkpoints(photo_root, tmp_path):
    small_run(
        photo_root, tmp_path / 'w', **{
            'train_cfg.max_epochs': 7,
            'train_dataloader.batch_size': 12,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.max_keep_ckpts': 2,
            'default_hooks.mask_update.max_keep_rounds': 1
        }).train()
    checkpoints = {
        name: torch.load(tmp_path / 'w' / name, weights_only=False)
        ['message_hub']['runtime_info']['mask_round']
        for name in os.listdir(tmp_path / 'w') if name.endswith('.pth')
    }
    assert checkpoints == {'epoch_6.pth': 5, 'epoch_7.pth': 6}
    # When round 6 was made, epochs 4 and 6 were on the disk: rounds 3 and 5.
    assert list_rounds(str(tmp_path / 'w' / 'masks')) == [3, 5, 6]


def test_a_checkpoint_hook_keeps_as_many_as_asked(photo_root, tmp_path):
    options = {
        'train_dataloader.batch_size': 12,
        'default_hooks.mask_update.interval': -1,
        'default_hooks.mask_update.initial': dict(type='GridMasks'),
        'default_hooks.checkpoint.max_keep_ckpts': 2
    }
    for epochs in (3, 4):
        small_run(photo_root, tmp_path / 'w', resume=True,
                  experiment_name=str(epochs),
                  **{'train_cfg.max_epochs': epochs}, **options).train()
        names = sorted(name for name in os.listdir(tmp_path / 'w')
                       if 'epoch' in name)
        assert names == [f'epoch_{epochs - 1}.pth', f'epoch_{epochs}.pth']
        assert (tmp_path / 'w' / 'last_checkpoint').read_text() == str(
            tmp_path / 'w' / names[-1])


def test_fixed_bank_is_left_alone(photo_root, tmp_path):
    options = {'train_cfg.max_epochs': 1}
    small_run(photo_root, tmp_path / 'a', **options).train()
    bank = str(tmp_path / 'a' / 'masks' / 'round_0000')
    runner = small_run(
        photo_root, tmp_path / 'b', experiment_name='b', **{
            'train_dataloader.dataset.mask_bank': bank
        })
    runner.train()
    assert not osp.exists(tmp_path / 'b' / 'masks')
    assert runner.train_loop.dataloader.dataset.mask_bank.path == bank


@pytest.mark.parametrize('bad', [dict(interval=0), dict(interval=-2),
                                 dict(group_size=0), dict(start=-1),
                                 dict(resume_data='old'), dict(max_broken=2),
                                 dict(bank_format=3),
                                 dict(source='GridMasks'),
                                 dict(initial='GridMasks')])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match='mask_update'):
        MaskUpdateHook(**bad)


def test_iteration_based_training_is_refused(photo_root, tmp_path):
    runner = small_run(photo_root, tmp_path / 'w')
    runner._train_loop = dict(type='IterBasedTrainLoop', max_iters=2)
    with pytest.raises(ValueError, match='by_epoch=True'):
        runner.train()


def test_target_follows_once_an_optimiser_step(photo_root, tmp_path):
    """6 batches, accumulated by 3: two steps, and the equalisation before."""
    runner = small_run(
        photo_root, tmp_path / 'w', **{
            'train_dataloader.batch_size': 2,
            'train_cfg.max_epochs': 1,
            'optim_wrapper.accumulative_counts': 3
        })
    seen = []
    share = runner.cfg.model.target_ema.momentum
    update = runner.model.update_target

    def watched():
        online = [p.clone() for p in runner.model.backbone.parameters()]
        before = [
            p.clone()
            for p in runner.model.target_net.module[0].parameters()
        ]
        update()
        after = list(runner.model.target_net.module[0].parameters())
        seen.append(
            all(
                torch.allclose(
                    a, o if not seen else (1 - share) * b + share * o,
                    atol=1e-7)
                for a, b, o in zip(after, before, online)))

    runner.model.update_target = watched
    runner.train()
    assert seen == [True] * 3


@pytest.mark.slow
def test_an_altered_checkpoint_ends_all_ranks(photo_root, tmp_path):
    """Rank 0 alone compares the images: the others must not wait for it."""
    images = images_of(photo_root)
    bank = make_round(GridMasks(), images, str(tmp_path / 'm'), 0, 0)

    def resume(rank):
        hook = MaskUpdateHook()
        hook.scenes = [SimpleNamespace(
            images=lambda: images, fingerprint=None)]
        hook.origin = RoundOrigin(
            0, dict(type='GridMasks'), 0, 0,
            file_sizes=torch.zeros(3, dtype=torch.int64))
        hook._resumed = lambda runner: bank
        hook._go_on(SimpleNamespace(message_hub=SimpleNamespace(
            get_info=lambda key: bank.hash)))

    codes, logs = in_processes(2, resume, tmp_path / 'log')
    assert codes == [1, 1]
    for log in logs:
        assert 'file_sizes of the checkpoint has 3 values' in log


@pytest.mark.slow
@pytest.mark.parametrize('where', ['resuming', 'describing', 'noting'])
def test_an_error_of_one_rank_ends_all(photo_root, tmp_path, monkeypatch,
                                       where):
    """A disk that one machine does not have, or has no room on: the others
    would go on to train, and wait."""
    images = images_of(photo_root)
    bank = make_round(GridMasks(), images, str(tmp_path / 'm'), 0, 0)
    failing = 1 if where == 'resuming' else 0  # else rank 0 alone does it

    def fails(*_):
        if torch.distributed.get_rank() == failing:
            raise MissingFileError('round_0000 is gone')
        return bank

    def part(rank):
        hook = MaskUpdateHook(source=dict(type='GridMasks'))
        hook.root, hook._began, hook._resumed = str(tmp_path / 'm'), 0, fails
        hook.scenes = [SimpleNamespace(
            images=lambda: images, read_args={}, fingerprint=None,
            sorted_keys=None)]
        runner = SimpleNamespace(
            seed=rank, rank=rank, logger=logging.getLogger(),
            model=OneWeight())
        if where == 'resuming':
            hook._go_on(runner)
        elif where == 'describing':
            hook.make = lambda *args, **options: bank
            monkeypatch.setattr(mask_update_hook, 'describe_round', fails)
            hook._renew(runner, 1, {}, 0, 0)
        else:
            monkeypatch.setattr(mask_update_hook, 'file_marks', fails)
            hook.make(runner, 0, hook.source_cfg, 0, 0)

    codes, logs = in_processes(2, part, tmp_path / 'log')
    assert codes == [1, 1], logs
    for log in logs:
        assert 'round_0000 is gone' in log.splitlines()[-1], log
