"""The index of photographs, against the listing that it replaces."""
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyborgs_plugin.datasets import (
    LoadSceneImage,
    SceneDataset,
    index_making,
    photo_index,
)
from cyborgs_plugin.datasets.index_making import index_folder
from cyborgs_plugin.datasets.keys import encode
from cyborgs_plugin.datasets.photo_index import (
    PHOTO,
    PhotoIndex,
    fingerprint_of,
    write_index,
)
from cyborgs_plugin.errors import MissingFileError, UserError
from cyborgs_plugin.segmentation import GridMasks, make_round
from cyborgs_plugin.segmentation.groups import KeyedGroups

from ..helpers import write_photo


@pytest.fixture
def photos(tmp_path):
    """Photographs in folders, with names that sort in odd ways."""
    names = ['a.png', 'a/1.png', 'a-b.png', 'ä/ö.png', 'Z/deep/er/2.JPG',
             '\U0001f600.png', '\uffff.png']
    for seed, name in enumerate(names):
        write_photo(tmp_path / 'photos' / name, (48 + seed, 64), seed)
    (tmp_path / 'photos' / 'notes.txt').write_text('no image')
    old = 1_600_000_000
    for folder, _, _ in os.walk(tmp_path / 'photos'):
        os.utime(folder, (old, old))
    return tmp_path / 'photos'


@pytest.fixture
def made(photos, tmp_path):
    return index_folder(str(photos), str(tmp_path / 'photos.index'))


def listed(photos):
    return SceneDataset(data_prefix=str(photos)).images()


def entries(*names):
    photos = np.zeros(len(names), PHOTO)
    photos['shard'] = -1
    return [encode(name) for name in names], photos


def test_lists_what_the_folder_lists(photos, made):
    data = SceneDataset(index=made.path)
    assert list(data.images()) == list(listed(photos))
    assert len(data.images()) == 7
    in_place = SceneDataset(data_prefix=dict(img_path=made.path))
    assert list(in_place.images()) == list(data.images())
    assert made.lengths.tolist() == [
        os.path.getsize(path) for _, path in data.images()]
    assert made.sizes.tolist() == [
        [48 + list(seeds).index(key), 64] for seeds in [[
            'a.png', 'a/1.png', 'a-b.png', 'ä/ö.png', 'Z/deep/er/2.JPG',
            '\U0001f600.png', '\uffff.png']] for key, _ in data.images()]


def test_rows_are_those_of_a_dict(made):
    rows = {key: row for row, (key, _) in enumerate(
        SceneDataset(index=made.path).images())}
    for key, row in rows.items():
        assert made.row(key) == row and made.key(row) == key
        for other in (key + 'x', key[:-1], 'x' + key, ''):
            assert made.row(other) == rows.get(other, -1)
    assert made.holds_below('Z/deep') and made.holds_below('Z')
    assert not made.holds_below('Z/dee') and not made.holds_below('zz')


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text(st.characters(exclude_characters='\0'), min_size=1),
               min_size=1, max_size=20), st.text())
def test_any_keys_are_found(tmp_path_factory, names, other):
    names = [name for name in names
             if not any('\ud800' <= c <= '\udfff' for c in name)] or ['a']
    path = tmp_path_factory.mktemp('any') / 'i'
    index = write_index(str(path), '/', *entries(*names))
    order = sorted(names, key=str.encode)
    assert [index.key(row) for row in range(len(index))] == order
    # Groups of a round need neither a copy of the keys nor to sort them.
    groups = [KeyedGroups(keys, 1, 2, 3) for keys in (order, index.keys())]
    layout, same = (each.layout() for each in groups)
    assert layout == same
    members, same = ([each.members(group) for group in range(each.num_groups)]
                     for each in groups)
    assert members == same
    if not any('\ud800' <= c <= '\udfff' for c in other):
        assert index.row(other) == (
            order.index(other) if other in names else -1)


def test_written_a_piece_at_a_time(tmp_path, monkeypatch):
    """The same files, whatever the pieces and the order of the keys."""
    names = [f'{number:03d}.jpg' for number in range(20)]
    keys, photos = entries(*names)
    photos['length'] = range(20)
    whole = write_index(str(tmp_path / 'whole'), '/', keys, photos)
    monkeypatch.setattr(photo_index, '_STEP', 3)
    mixed = np.random.default_rng(0).permutation(20)
    for name, order in dict(sorted=range(20), mixed=mixed).items():
        part = write_index(str(tmp_path / name), '/',
                           [keys[row] for row in order], photos[list(order)])
        assert part.fingerprint == whole.fingerprint == fingerprint_of(
            keys, photos['length'])
        for array in ('keys.npy', 'offsets.npy', 'photos.npy'):
            assert (tmp_path / name / array).read_bytes() == (
                tmp_path / 'whole' / array).read_bytes()
    # Twins are found where pieces meet.
    with pytest.raises(UserError, match="2 keys come more .*'002.* '005"):
        write_index(str(tmp_path / 'twins'), '/',
                    [*keys, keys[2], keys[5]], np.concatenate(
                        [photos, photos[:2]]))


def test_parts_of_the_images(photos, made):
    every = list(listed(photos))
    for indices in (3, -2, [5, 0, 5]):
        data = SceneDataset(index=made.path, indices=indices)
        assert list(data.images()) == list(
            SceneDataset(data_prefix=str(photos), indices=indices).images())
        assert data.fingerprint is None
    whole = SceneDataset(index=made.path)
    assert whole.fingerprint == made.fingerprint
    assert list(pickle.loads(pickle.dumps(whole)).images()) == every
    with pytest.raises(UserError, match='indices=8 does not fit the 7'):
        SceneDataset(index=made.path, indices=8)


def test_fingerprint_is_of_keys_and_lengths(photos, made, tmp_path):
    again = index_folder(str(photos), str(tmp_path / 'b'), sizes=False)
    assert again.fingerprint == made.fingerprint
    with open(photos / 'a.png', 'ab') as file:
        file.write(b'x')
    longer = index_folder(str(photos), str(tmp_path / 'b'))
    os.rename(photos / 'a.png', photos / 'b.png')
    renamed = index_folder(str(photos), str(tmp_path / 'b'))
    assert len({made.fingerprint, longer.fingerprint,
                renamed.fingerprint}) == 3


def test_a_round_is_recognised_by_the_fingerprint(made, tmp_path,
                                                  monkeypatch):
    data = SceneDataset(index=made.path)
    bank = make_round(GridMasks(), data.images(), str(tmp_path / 'm'), 0, 0,
                      meta=dict(photographs=made.fingerprint))
    with monkeypatch.context() as patch:
        patch.setattr(type(bank), '__contains__', None)  # not key by key
        data.use_masks(bank)
    assert data.mask_bank is bank
    part = SceneDataset(index=made.path, indices=2)
    part.use_masks(bank)  # key by key
    other = make_round(GridMasks(), part.images(), str(tmp_path / 'm'), 1, 0)
    with pytest.raises(UserError, match='no label map for 5 of 7 images'):
        data.use_masks(other)


def test_a_missing_photograph_is_named_with_the_index(photos, made):
    data = SceneDataset(index=made.path, with_masks=False,
                        pipeline=[LoadSceneImage()])
    said = []
    data._warn = said.append
    os.remove(photos / 'a.png')
    place = [key for key, _ in data.images()].index('a.png')
    assert data.prepare_data(place) is None
    assert 'a.png: cannot be read' in said[0] and made.path in said[0]
    assert f'{photos} --out {made.path}' in said[0]


@pytest.mark.parametrize('change, found', [
    (lambda photos: write_photo(photos / 'a' / 'new.png'), 'new.png is new'),
    (lambda photos: write_photo(photos / 'n' / 'e' / 'w.png'), 'n is new'),
    (lambda photos: os.remove(photos / 'a.png'),
     'holds 3 photographs, not 4'),
    (lambda photos: shutil.rmtree(photos / 'Z' / 'deep'), 'deep is gone'),
    (lambda photos: os.rename(photos / 'a.png', photos / 'b.png'),
     'b.png is new'),
])
def test_a_change_is_noticed_at_the_start(photos, made, change, found):
    change(photos)
    with pytest.raises(UserError, match=f'out of date: .*{found}') as error:
        SceneDataset(index=made.path)
    assert f'{photos} --out {made.path}' in str(error.value)
    index_folder(str(photos), made.path)
    assert list(SceneDataset(index=made.path).images()) == list(
        listed(photos))


def test_other_changes_do_not_matter(photos, made):
    (photos / 'more.txt').write_text('no image')
    write_photo(photos / '.hidden' / 'x.png')
    (photos / 'run').mkdir()
    (photos / 'run' / 'last_checkpoint').write_text('epoch_1.pth')
    write_photo(photos / 'run' / 'sheet.png')
    (photos / 'empty').mkdir()
    assert len(SceneDataset(index=made.path)) == 7


def test_a_change_during_the_listing_is_not_missed(tmp_path, monkeypatch):
    folder = tmp_path / 'p'
    write_photo(folder / 'a.png')
    found = index_making.find_files

    def slow(*args):
        result = found(*args)
        write_photo(folder / 'b.png')
        return result

    monkeypatch.setattr(index_making, 'find_files', slow)
    index = index_folder(str(folder), str(tmp_path / 'i'))
    monkeypatch.undo()
    with pytest.raises(UserError, match='b.png is new'):
        SceneDataset(index=index.path)


def test_photographs_that_were_moved(photos, made, tmp_path):
    (tmp_path / 'new').mkdir()
    os.rename(photos, tmp_path / 'new' / 'photos')
    with pytest.raises(MissingFileError, match='does not exist.*move them'):
        PhotoIndex(made.path)
    os.rename(made.path, tmp_path / 'new' / 'photos.index')
    data = SceneDataset(index=str(tmp_path / 'new' / 'photos.index'))
    assert list(data.images()) == list(listed(tmp_path / 'new' / 'photos'))


@pytest.mark.parametrize('name', ['keys', 'offsets', 'photos'])
def test_truncated_arrays_are_refused(made, name):
    os.truncate(f'{made.path}/{name}.npy', 100)
    with pytest.raises(UserError, match=f'{name}.npy is truncated or altered: '
                       'expected .* bytes, found 100'):
        PhotoIndex(made.path)
    os.remove(f'{made.path}/{name}.npy')
    with pytest.raises(UserError, match='found no file'):
        PhotoIndex(made.path)


def test_bad_manifests_are_refused(made):
    file = f'{made.path}/photo_index.json'
    content = json.loads(open(file).read())

    def write(text):
        open(file, 'w').write(text)

    write(json.dumps(content)[:100])
    with pytest.raises(UserError, match='photo_index.json is truncated'):
        PhotoIndex(made.path)
    for wrong in ('[]', '{}', json.dumps(dict(content, bytes=None)),
                  json.dumps(dict(content, shards=[3]))):
        write(wrong)
        with pytest.raises(UserError, match='index.json is truncated or'):
            PhotoIndex(made.path)
    write(json.dumps(dict(content, folders=[3])))
    with pytest.raises(UserError, match='photo_index.json is altered'):
        SceneDataset(index=made.path)
    write(json.dumps(dict(content, format_version=2)))
    with pytest.raises(UserError, match='index format 2, but this'):
        PhotoIndex(made.path)


def test_what_is_no_index_is_refused(tmp_path, photos):
    with pytest.raises(MissingFileError, match="none' does not exist"):
        PhotoIndex(str(tmp_path / 'none'))
    for path in (photos, photos / 'a.png'):
        with pytest.raises(UserError, match='is no index'):
            PhotoIndex(str(path))
    with pytest.raises(UserError, match='exists and is no index'):
        index_folder(str(photos), str(photos))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match="No image in .*empty': no file"):
        index_folder(str(tmp_path / 'empty'), str(tmp_path / 'i'))
    with pytest.raises(UserError, match="1 keys come more than once: 'b'"):
        write_index(str(tmp_path / 'i'), '/', *entries('b', 'a', 'b'))
    assert not (tmp_path / 'i').exists()
    assert not [name for name in os.listdir(tmp_path) if name[0] == '.']


def test_an_index_that_is_written_again_under_a_run(photos, made):
    data = SceneDataset(index=made.path)
    content = pickle.dumps(data)
    write_photo(photos / 'c.png')
    index_folder(str(photos), made.path)
    assert len(data.images()) == 7 and data.images()[0]  # still mapped
    with pytest.raises(UserError, match='written again while a run'):
        pickle.loads(content)


def test_other_lists_are_refused(made):
    for option in (dict(ann_file='a.json'), dict(extensions='jpg')):
        with pytest.raises(UserError, match='leave out one of the two'):
            SceneDataset(index=made.path, **option)
