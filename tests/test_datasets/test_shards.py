"""Photographs in tar files, against the folder that they were packed from."""
import gzip
import io
import os
import tarfile

import numpy as np
import pytest
import torch

from cyborgs_plugin.datasets import (
    BrokenImageError,
    LoadSceneImage,
    MaskBank,
    SceneDataset,
    read_image,
)
from cyborgs_plugin.datasets.index_making import index_folder, index_shards
from cyborgs_plugin.datasets.shards import address, parse_address
from cyborgs_plugin.errors import MissingFileError, UserError

from ..helpers import small_run, write_photo

LONG = 'a' * 120 + '/' + 'ö' * 60 + '.png'


def pack(path, members, form=tarfile.PAX_FORMAT):
    """Write a tar file of (name, bytes)."""
    with tarfile.open(path, 'w', format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def picture(tmp_path, seed=0, size=(48, 64)):
    write_photo(tmp_path / f'{seed}.png', size, seed)
    return (tmp_path / f'{seed}.png').read_bytes()


@pytest.fixture
def packed(photo_root, tmp_path):
    """The folder of 12 photographs, and its shuffled content in 3 tars."""
    folder = photo_root / 'train2017'
    names = sorted(os.listdir(folder))
    order = np.random.default_rng(0).permutation(names)
    (tmp_path / 'tars').mkdir()
    shards = [
        pack(tmp_path / 'tars' / f'{number}.tar',
             [member for name in order[number::3] for member in [
                 (name, (folder / name).read_bytes()),
                 (name[:-4] + '.json', b'{}'), (name[:-4] + '.txt', b'cat')]])
        for number in range(3)
    ]
    return folder, shards


@pytest.mark.parametrize('form', [
    tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_read_where_they_lie(tmp_path, form):
    names = ['./x/1.png', 'x/2.PNG', 'ä.png']
    if form != tarfile.USTAR_FORMAT:
        names.append(LONG)
    content = {name: picture(tmp_path, seed)
               for seed, name in enumerate(names)}
    shard = pack(tmp_path / 's.tar', [
        ('x', b''), ('readme', b'text'), *content.items(), ('1.cls', b'3')],
        form)
    index = index_shards([shard], str(tmp_path / 'i'))
    data = SceneDataset(index=str(tmp_path / 'i'))
    assert {key for key, _ in data.images()} == {
        name.removeprefix('./') for name in names}
    for key, path in data.images():
        name = key if key in content else f'./{key}'
        place = parse_address(path)
        whole = open(shard, 'rb').read()
        assert whole[place.start:][:place.length] == content[name]
        assert (read_image(path) == read_image(
            str(tmp_path / f'{names.index(name)}.png'))).all()
        assert index.sizes[index.row(key)].tolist() == [48, 64]


def test_addresses_are_read_as_written():
    for shard, member in (('/a/b.tar', 'x@1+2::y.png'), ('s3://b/c.tar', 'd'),
                          ('/a::b/c.tar', 'x\n.png')):
        place = parse_address(address(shard, member, 512, 7))
        assert place.start == 512 and place.length == 7
        assert f'{place.shard}::{place.member}' == f'{shard}::{member}'
    assert parse_address('/photos/a.jpg') is None
    assert parse_address('/photos/a::b.jpg') is None


def test_the_same_masks_and_batches_as_from_the_folder(packed, tmp_path):
    """Through two rounds and a step behind them; the source clusters."""
    folder, shards = packed
    index_folder(str(folder), str(tmp_path / 'f.index'))
    index_shards(shards, str(tmp_path / 't.index'))
    at = 'train_dataloader.dataset'
    kinds = {
        'folder': {f'{at}.data_prefix.img_path': str(folder)},
        'index': {f'{at}.index': str(tmp_path / 'f.index')},
        'tars': {f'{at}.index': str(tmp_path / 't.index')},
    }
    states, maps = [], []
    for kind, options in kinds.items():
        runner = small_run(folder.parent, tmp_path / kind, **options,
                           **{'train_cfg.max_epochs': 2,
                              f'{at}.ann_file': ''})
        runner.train()
        states.append(runner.model.state_dict())
        maps.append([
            [(key, MaskBank.open(tmp_path / kind / 'masks' / name)
              .label_maps(key).tobytes()) for key in sorted(
                  os.listdir(folder))]
            for name in ('round_0000', 'round_0001')])
    assert maps[0] == maps[1] == maps[2]
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name])
                   for name in states[0])
    bank = MaskBank.open(tmp_path / 'tars' / 'masks' / 'round_0001')
    assert bank.manifest['photographs'] == SceneDataset(
        index=str(tmp_path / 'f.index')).fingerprint


def test_a_run_is_resumed_from_tar_files(packed, tmp_path):
    folder, shards = packed
    path = str(tmp_path / 't.index')
    index_shards(shards, path)
    options = {'train_dataloader.dataset.index': path,
               'train_dataloader.dataset.ann_file': ''}
    small_run(folder.parent, tmp_path / 'run', **options,
              **{'train_cfg.max_epochs': 1}).train()
    runner = small_run(folder.parent, tmp_path / 'run', **options,
                       **{'train_cfg.max_epochs': 2, 'resume': True})
    runner.train()
    # Another photograph of the same name
    pack(shards[0], [('00.png', picture(tmp_path, 99)), *(
        (name, (folder / name).read_bytes())
        for name in sorted(os.listdir(folder))[1:])])
    index_shards(shards[:1], path)
    runner = small_run(folder.parent, tmp_path / 'run', **options,
                       **{'train_cfg.max_epochs': 3, 'resume': True})
    with pytest.raises(UserError, match='some replaced, since files have'):
        runner.train()


def test_a_sample_has_one_picture(tmp_path):
    image = picture(tmp_path)
    shard = pack(tmp_path / 's.tar', [
        ('1.depth.png', image), ('1.png', image), ('2.png', image),
        ('2.seg.png', image), ('3.left.png', image), ('._4.png', image),
        ('__MACOSX/5.png', image), ('6.png', b'')])
    index = index_shards([shard], str(tmp_path / 'i'))
    assert [index.key(row) for row in range(len(index))] == [
        '1.png', '2.png', '3.left.png']
    pack(shard, [('a/1.jpg', image), ('a/1.png', image)])
    with pytest.raises(UserError, match="s.tar: the sample 'a/1' has two "
                       "pictures, 'a/1.jpg' and 'a/1.png'.*--extensions"):
        index_shards([shard], str(tmp_path / 'i'))
    index = index_shards([shard], str(tmp_path / 'i'), ('.png', ))
    assert [index.key(row) for row in range(len(index))] == ['a/1.png']


def test_keys_that_two_tar_files_have(tmp_path):
    image = picture(tmp_path)
    (tmp_path / 'b').mkdir()
    shards = [pack(tmp_path / name, [('1.png', image)])
              for name in ('a.tar', 'b/a.tar')]
    with pytest.raises(UserError, match=r"'1.png' \(in a.tar and b/a.tar\).*"
                       '--shard-in-key'):
        index_shards(shards, str(tmp_path / 'i'))
    index = index_shards(shards, str(tmp_path / 'i'), shard_in_key=True)
    assert [index.key(row) for row in (0, 1)] == ['a/1.png', 'b/a/1.png']
    assert read_image(index.photo(1)).shape == (48, 64, 3)


@pytest.mark.parametrize('damage, found', [
    (lambda content: b'', 'an empty file'),
    (lambda content: content[:700], 'truncated one'),
    (lambda content: content[:1100], 'truncated one'),
    (lambda content: content[:content.index(b'2.png') + 9], 'truncated one'),
    (lambda content: content.replace(b'2.png\0', b'3.png\0'), 'truncated one'),
    (lambda content: content.rstrip(b'\0') + b'\0' * 100, 'truncated one'),
    (gzip.compress, 'a compressed tar file.*gunzip'),
    (lambda content: b'<html>' * 500, 'no tar file'),
])
def test_damaged_tar_files_are_refused(tmp_path, damage, found):
    image = picture(tmp_path)
    shard = pack(tmp_path / 's.tar', [('1.png', image), ('2.png', image)])
    content = damage(open(shard, 'rb').read())
    open(shard, 'wb').write(content)
    with pytest.raises(UserError, match=f's.tar: .*{found}'):
        index_shards([shard], str(tmp_path / 'i'))


def test_missing_tar_files(packed, tmp_path):
    with pytest.raises(MissingFileError, match="none.tar' does not exist"):
        index_shards([str(tmp_path / 'none.tar')], str(tmp_path / 'i'))
    pack(tmp_path / 's.tar', [('a.txt', b'x')])
    with pytest.raises(UserError, match='holds no photographs'):
        index_shards([str(tmp_path / 's.tar')], str(tmp_path / 'i'))


def test_changed_tar_files_are_noticed(packed, tmp_path):
    folder, shards = packed
    path = str(tmp_path / 'i')
    index = index_shards(shards, path)
    data = SceneDataset(index=path, with_masks=False,
                        pipeline=[LoadSceneImage()])
    said = []
    data._warn = said.append
    whole = open(shards[1], 'rb').read()
    os.truncate(shards[1], 1000)
    with pytest.raises(UserError, match='1.tar has 1000 bytes, not.*Make it'):
        SceneDataset(index=path)
    places = [place for place, (_, photo) in enumerate(data.images())
              if '1.tar' in photo]
    assert [data.prepare_data(place) for place in places] == [None] * 4
    assert all('1.tar::' in line and 'the tar file is truncated' in line
               and f'The index {path} lists it' in line for line in said)
    # The same bytes in another order: members lie elsewhere.
    open(shards[1], 'wb').write(whole[1024:] + whole[:1024])
    for place in places:
        with pytest.raises(BrokenImageError, match='1.tar::.*lies|begins'):
            read_image(data.images()[place][1])
    os.remove(shards[1])
    with pytest.raises(UserError, match='1.tar is gone'):
        SceneDataset(index=path)
    with pytest.raises(BrokenImageError, match='1.tar::.*No such file'):
        read_image(data.images()[places[0]][1])
    assert index.shards == ['0.tar', '1.tar', '2.tar']
