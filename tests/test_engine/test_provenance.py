"""A round belongs to the content of the files that it was made from."""
import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmpretrain.utils import get_ori_model

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.mask_bank import round_path
from cyborgs_plugin.engine import MaskUpdateHook

from ..helpers import small_run, write_photo

SOURCE = 'default_hooks.mask_update.source'


def start(photo_root, work_dir, name, **options):
    """The hook of a run that has made or found its round 0."""
    runner = small_run(photo_root, work_dir, experiment_name=name, **options)
    runner.train_loop  # noqa: B018
    runner._init_model_weights()
    hook, = (hook for hook in runner.hooks
             if isinstance(hook, MaskUpdateHook))
    hook.before_train(runner)
    return runner, hook


def backbone_file(path, runner, seed):
    torch.manual_seed(seed)
    state = {
        name: torch.randn_like(tensor).abs() if tensor.is_floating_point()
        else tensor
        for name, tensor in get_ori_model(
            runner.model).backbone.state_dict().items()
    }
    torch.save(dict(state_dict=state), path)
    return state


def annotations(path, x):
    """One box of 20 pixels on each of the 12 pictures."""
    images, found = [], []
    for number in range(12):
        height, width = (48, 64) if number % 3 else (64, 48)
        images.append(
            dict(id=number, file_name=f'{number:02d}.png', height=height,
                 width=width))
        found.append(
            dict(id=number, image_id=number, category_id=1, area=400,
                 bbox=[x, 4, 20, 20], iscrowd=0, segmentation=[[
                     x, 4, x + 20, 4, x + 20, 24, x, 24]]))
    path.write_text(
        json.dumps(
            dict(images=images, annotations=found,
                 categories=[dict(id=1, name='box')])))


def test_weights_of_a_file_are_what_the_round_was_made_from(
        photo_root, tmp_path):
    work, path = tmp_path / 'w', tmp_path / 'given.pth'
    runner, _ = start(photo_root, tmp_path / 'other', 'other')
    given = backbone_file(path, runner, 1)
    options = {f'{SOURCE}.checkpoint': str(path)}
    runner, hook = start(photo_root, work, 'first', **options)
    first = hook.bank
    origin = hook.origin.network
    assert origin and all(
        torch.equal(tensor, given[name]) for name, tensor in origin.items())
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)

    _, hook = start(photo_root, work, 'same', **options)
    assert hook.bank.hash == first.hash  # used again
    backbone_file(path, runner, 2)  # other weights under the same name
    runner, hook = start(photo_root, work, 'changed', **options)
    assert hook.bank.manifest['network'] != first.manifest['network']
    assert hook.bank.hash != first.hash

    path.unlink()  # the checkpoint has all that it takes
    hook.root = str(tmp_path / 'again')
    assert hook.make_again(runner, checkpoint).hash == first.hash


def test_a_checkpoint_without_fingerprint_reads_the_file(
        photo_root, tmp_path):
    """Of commit f15b0f3: its network is that in training, not the file's."""
    path = tmp_path / 'given.pth'
    runner, _ = start(photo_root, tmp_path / 'other', 'other')
    backbone_file(path, runner, 1)
    runner, hook = start(photo_root, tmp_path / 'w', 'first',
                         **{f'{SOURCE}.checkpoint': str(path)})
    first, checkpoint = hook.bank, {}
    hook.before_save_checkpoint(runner, checkpoint)
    origin = checkpoint['mask_origin']
    del origin['fingerprint']
    origin['network'] = {
        name: torch.zeros_like(tensor)
        for name, tensor in origin['network'].items()
    }
    hook.root = str(tmp_path / 'again')
    assert hook.make_again(runner, checkpoint).hash == first.hash


@pytest.mark.parametrize('kind', ['annotations', 'bank'])
def test_a_round_of_a_changed_file_is_made_anew(photo_root, tmp_path, kind):
    work = tmp_path / 'w'
    source = {f'{SOURCE}._delete_': True}
    if kind == 'annotations':
        path = tmp_path / 'boxes.json'
        annotations(path, 4)
        source.update({
            f'{SOURCE}.type': 'AnnotatedMasks',
            f'{SOURCE}.ann_file': str(path),
            f'{SOURCE}.key_prefix': 'train2017/'
        })
    else:
        path = tmp_path / 'bank'
        for number, grid in enumerate(((2, 2), (3, 3))):
            _, hook = start(
                photo_root, tmp_path / f'bank{number}', f'bank{number}', **{
                    f'{SOURCE}._delete_': True,
                    f'{SOURCE}.type': 'GridMasks',
                    f'{SOURCE}.grid': grid
                })
        shutil.copytree(tmp_path / 'bank0' / 'masks', path)
        source.update({
            f'{SOURCE}.type': 'BankMasks',
            f'{SOURCE}.path': str(path)
        })
    _, hook = start(photo_root, work, 'first', **source)
    first = hook.bank
    made = (tmp_path / 'w' / 'masks' / 'round_0000').stat().st_ino
    _, hook = start(photo_root, work, 'same', **source)
    assert (tmp_path / 'w' / 'masks' / 'round_0000').stat().st_ino == made

    if kind == 'annotations':
        annotations(path, 24)
    else:
        shutil.rmtree(path)
        shutil.copytree(tmp_path / 'bank1' / 'masks', path)
    _, hook = start(photo_root, work, 'changed', **source)
    key = first.keys()[0]
    assert hook.bank.manifest['fingerprint'] != first.manifest['fingerprint']
    assert not np.array_equal(hook.bank.label_map(key), first.label_map(key))


READ = []


class Told(LocalBackend):
    """Local files; tells which it has read."""

    def __init__(self, folder):
        self.folder = folder

    def get(self, filepath):
        READ.append((self.folder, str(filepath)[-6:]))
        return super().get(filepath)


register_backend('told', Told)


def test_each_data_set_is_read_by_its_own_backend(photo_root, tmp_path):
    for number in range(3):
        write_photo(photo_root / 'more' / f'm{number}.png', seed=number)
    parts = [
        dict(
            type='SceneDataset',
            data_root=str(photo_root),
            data_prefix=dict(img_path=folder),
            backend_args=dict(backend='told', folder=folder))
        for folder in ('train2017', 'more')
    ]
    READ.clear()
    _, hook = start(
        photo_root, tmp_path / 'w', 'two', **{
            'train_dataloader.dataset': dict(
                _delete_=True, type='ConcatDataset', datasets=parts)
        })
    assert len(hook.bank) == 15 and not hook.bank.manifest['broken_images']
    for folder, count in (('train2017', 12), ('more', 3)):
        files = {file for name, file in READ if name == folder}
        assert len(files) == count
        assert all(('m' in file[:3]) == (folder == 'more') for file in files)
    assert MaskBank.open(round_path(hook.root, 0)).hash == hook.bank.hash
