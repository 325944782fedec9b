"""The mask bank: round trips, identical bytes, faults, and its cost.

All tests run for both formats, except those that are marked ``ONE``; what
only format 2 has is in test_mask_blocks.py. The figures of docs/mask_bank.md
come from ``pytest tests/test_datasets/test_mask_bank.py -m slow -s``.
"""
import copy
import ctypes
import errno
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyborgs_plugin.datasets import mask_arrays, mask_bank
from cyborgs_plugin.datasets.mask_arrays import MaskBankWriter
from cyborgs_plugin.datasets.mask_bank import (
    MaskBank,
    clear_leftovers,
    find_aside,
    give_up_round,
    is_given_up,
    list_rounds,
    prune_rounds,
    publish_blocks,
    publish_round,
    round_path,
    set_aside,
)
from cyborgs_plugin.datasets.mask_blocks import BlockWriter
from cyborgs_plugin.segmentation.groups import KeyedGroups

FORMAT = 1
ONE = pytest.mark.parametrize('form', [1], indirect=True)
META = dict(seed=7, checkpoint='sha256:ab', epoch=3, broken_images=[])


@pytest.fixture(params=[1, 2], ids=['format1', 'format2'], autouse=True)
def form(request, monkeypatch):
    """The format that :func:`make_round` writes."""
    monkeypatch.setattr(sys.modules[__name__], 'FORMAT', request.param)
    return request.param


def make_scenes(num=7, seed=0, max_id=200):
    """{key: label map} whose order is not that of the sorted keys."""
    rng = np.random.default_rng(seed)
    return {
        f'train2017/{(i * 37) % 101:012d}.jpg': rng.integers(
            0, max_id + 1, rng.integers(1, 9, 2))
        for i in range(num)
    }


def groups_of(scenes, number):
    return KeyedGroups(scenes, 7, number, 2)


def write_shard(root, number, scenes, rank=0, world_size=1, shuffle=None):
    if FORMAT == 2:
        groups, keys = groups_of(scenes, number), list(scenes)
        writer = BlockWriter(root, number, groups.salt, rank)
        for group in groups.of_rank(rank, world_size):
            for index in groups.members(group):
                writer.add(groups.block(group), keys[index],
                           scenes[keys[index]])
        return writer.close()
    writer = MaskBankWriter(root, number, rank)
    part = list(enumerate(scenes.items()))[rank::world_size]
    if shuffle is not None:
        random.Random(shuffle).shuffle(part)
    for index, (key, label_map) in part:
        writer.add(index, key, label_map)
    writer.close()
    return []


def publish(root, number, scenes, blocks, meta=META):
    if FORMAT == 2:
        return publish_blocks(root, number,
                              groups_of(scenes, number).layout(), blocks, meta)
    return publish_round(root, number, len(scenes), meta)


def make_round(root, number, scenes, world_size=1, shuffle=None, meta=META):
    clear_leftovers(root)
    blocks = [
        block for rank in range(world_size)
        for block in write_shard(root, number, scenes, rank, world_size,
                                 shuffle)]
    return publish(root, number, scenes, blocks, meta)


def essence(bank):
    """What must not depend on the number of ranks."""
    if bank.format_version == 1:
        return content(bank.path)
    return bank.hash, {
        key: (bank.row(key), bank.label_maps(key).tobytes())
        for key in bank.keys()}


def content(folder):
    """{file name: bytes} of a folder; hidden ones, too."""
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def assert_holds(bank, scenes):
    assert len(bank) == len(scenes)
    assert sorted(bank.keys()) == sorted(scenes)
    for key, label_map in scenes.items():
        found = bank.label_map(key)
        np.testing.assert_array_equal(found, label_map)
        assert found.shape == label_map.shape
        assert key in bank


def path_of(descriptor):
    """What an open file is called; os.fsync is given no more."""
    return os.readlink(f'/proc/self/fd/{descriptor}')


def no_sync():
    """Spare the disk where no power is cut."""
    return mock.patch.object(os, 'fsync')


# -- What is written is what is read ---------------------------------------

KEYS = st.text(
    st.characters(exclude_characters='\0', exclude_categories=['Cs']),
    min_size=1, max_size=30)
PATHS = st.lists(KEYS, min_size=1, max_size=3).map('/'.join)
MAPS = st.tuples(
    st.integers(1, 6), st.integers(1, 6),
    st.sampled_from([0, 255, 256, 65535]), st.integers(0, 2**32 - 1),
    st.sampled_from(['u1', '<u2', '<i4', '>i8']))


def draw_map(height, width, max_id, seed, dtype):
    top = min(max_id, np.iinfo(dtype).max)
    ids = np.random.default_rng(seed).integers(0, top + 1, (height, width))
    ids[-1, -1] = top
    return ids.astype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    scenes=st.dictionaries(PATHS, MAPS, min_size=1, max_size=8),
    shuffle=st.integers(0, 99))
def test_any_scenes_round_trip_identically_for_any_world_size(scenes, shuffle):
    scenes = {key: draw_map(*drawn) for key, drawn in scenes.items()}
    with tempfile.TemporaryDirectory() as root, no_sync():
        folders = []
        for world_size in (1, 2, 3):
            bank = make_round(os.path.join(root, str(world_size)), 5, scenes,
                              world_size, shuffle * (world_size - 1))
            assert_holds(bank, scenes)
            assert bank.round == 5
            wide = max(label_map.max() for label_map in scenes.values()) > 255
            assert bank.label_map(next(iter(scenes))).dtype == (
                np.uint16 if wide else np.uint8)
            folders.append(essence(bank))
            for key in scenes:
                assert bank.key_of(bank.row(key)) == key
        assert folders[0] == folders[1] == folders[2]
        assert 'no such key/' not in bank


def test_file_names_that_are_not_unicode_round_trip(tmp_path):
    key = os.fsdecode(b'train/na\xefve.jpg')
    bank = make_round(tmp_path, 0, {key: np.ones((2, 3), int)})
    assert bank.keys() == [key]
    assert bank.label_map(key).shape == (2, 3)


@ONE
def test_a_round_is_plain_files_that_the_manifest_describes(tmp_path):
    scenes = make_scenes()
    bank = make_round(tmp_path, 12, scenes)
    assert bank.path == str(tmp_path / 'round_0012') == round_path(
        tmp_path, 12)
    assert os.listdir(tmp_path) == ['round_0012']
    files = content(bank.path)
    assert set(files) == {'labels.npy', 'offsets.npy', 'sizes.npy',
                          'keys.npy', 'manifest.json'}
    manifest = json.loads(files.pop('manifest.json'))
    assert manifest == bank.manifest == dict(
        META, format_version=1, round=12, num_images=len(scenes),
        num_clusterings=1,
        files={
            name: dict(bytes=len(data),
                       sha256=hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        })
    assert bank.hash == hashlib.sha256(
        Path(bank.path, 'manifest.json').read_bytes()).hexdigest()
    for name in files:
        np.load(Path(bank.path, name), allow_pickle=False)


def test_another_round_of_the_same_maps_has_another_hash(tmp_path):
    scenes = make_scenes()
    first, second = (make_round(tmp_path, n, scenes) for n in (0, 1))
    again = make_round(tmp_path / 'again', 0, scenes)
    assert first.hash == again.hash != second.hash
    assert make_round(tmp_path, 1, scenes, meta={}).hash != second.hash
    turned = dict(reversed(META.items()))
    assert make_round(tmp_path, 1, scenes, meta=turned).hash == second.hash


def test_label_maps_are_read_only_views(tmp_path):
    bank = make_round(tmp_path, 0, make_scenes())
    label_map = bank.label_map(bank.keys()[0])
    assert type(label_map) is np.ndarray
    with pytest.raises(ValueError, match='read-only'):
        label_map[0, 0] = 1


def test_several_clusterings_of_an_image(tmp_path):
    scenes = {key: np.stack([ids, ids + 1, 300 - ids])
              for key, ids in make_scenes().items()}
    folders = []
    for world_size in (1, 2, 3):
        bank = make_round(tmp_path / str(world_size), 2, scenes, world_size,
                          shuffle=world_size)
        folders.append(essence(bank))
    assert folders[0] == folders[1] == folders[2]
    assert bank.num_clusterings == bank.manifest['num_clusterings'] == 3
    for key, maps in scenes.items():
        for number, label_map in enumerate(maps):
            np.testing.assert_array_equal(bank.label_map(key, number),
                                          label_map)
        np.testing.assert_array_equal(bank.label_map(key), maps[0])
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f'3 clusterings.* {wrong}'):
            bank.label_map(key, wrong)


def test_images_must_have_as_many_clusterings(tmp_path):
    scenes = make_scenes(3)
    key = next(iter(scenes))
    scenes[key] = np.stack([scenes[key]] * 2)
    with pytest.raises(ValueError, match=r'same number.*\[1, 2\]'):
        make_round(tmp_path, 0, scenes)


def test_keys_evenly_spaced(tmp_path):
    bank = make_round(tmp_path, 0, make_scenes(10))
    assert bank.keys(10) == bank.keys(99) == bank.keys()
    assert bank.keys(4) == sorted(map(bank.key_of, range(0, 10, 3)))
    assert bank.keys(1) == [bank.key_of(0)]


def test_a_rank_gives_a_round_up(tmp_path):
    assert not is_given_up(tmp_path, 3)
    give_up_round(tmp_path, 3)
    assert is_given_up(tmp_path, 3) and not is_given_up(tmp_path, 2)
    assert list_rounds(tmp_path) == []
    clear_leftovers(tmp_path)
    assert not is_given_up(tmp_path, 3) and not os.listdir(tmp_path)


def read_in_child(bank, key, queue):
    queue.put((bank.round, np.array(bank.label_map(key))))


@pytest.mark.parametrize(
    'method', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_other_processes_read_the_same_files(tmp_path, method):
    scenes = make_scenes()
    bank = make_round(tmp_path, 3, scenes)
    key = bank.keys()[2]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(bank, key, queue))
    child.start()
    number, label_map = queue.get(timeout=60)
    child.join()
    assert number == 3
    np.testing.assert_array_equal(label_map, scenes[key])


def test_a_pickled_bank_is_its_path_alone(tmp_path):
    scenes = make_scenes(num=90)
    bank = make_round(tmp_path, 3, scenes)
    assert len(pickle.dumps(bank)) < 200 + len(bank.path)
    for twin in (pickle.loads(pickle.dumps(bank)), copy.deepcopy(bank)):
        assert (twin.path, twin.hash) == (bank.path, bank.hash)
        assert_holds(twin, scenes)


# -- Rounds ----------------------------------------------------------------


def test_root_opens_its_newest_round(tmp_path):
    for number in (0, 2, 10, 10000):
        make_round(tmp_path, number, make_scenes(seed=number))
        assert MaskBank.open(tmp_path).round == number
    (tmp_path / 'round_0011').mkdir()  # Nothing in it: not a round.
    (tmp_path / 'round_12').mkdir()
    (tmp_path / 'notes.txt').touch()
    assert list_rounds(tmp_path) == [0, 2, 10, 10000]
    assert MaskBank.open(tmp_path / 'round_0002').round == 2
    assert list_rounds(tmp_path / 'absent') == []


def test_a_copied_round_opens_under_any_name(tmp_path):
    scenes = make_scenes()
    bank = make_round(tmp_path / 'masks', 4, scenes)
    shutil.copytree(bank.path, tmp_path / 'mine')
    assert_holds(MaskBank.open(tmp_path / 'mine', verify=True), scenes)


@pytest.mark.parametrize('max_keep, keep, left', [
    (2, (), [3, 4]),
    (2, (0, 4), [0, 3, 4]),
    (9, (), [0, 1, 2, 3, 4]),
    (0, (), [0, 1, 2, 3, 4]),
    (-1, (), [0, 1, 2, 3, 4]),
])
def test_prune_keeps_the_newest_and_the_named(tmp_path, max_keep, keep, left):
    for number in range(5):
        make_round(tmp_path, number, make_scenes())
    gone = prune_rounds(tmp_path, max_keep, iter(keep))
    assert list_rounds(tmp_path) == left
    assert sorted(gone + left) == [0, 1, 2, 3, 4]
    assert sorted(os.listdir(tmp_path)) == [f'round_{n:04d}' for n in left]


def test_an_open_bank_outlives_pruning_and_replacement(tmp_path):
    scenes = make_scenes()
    first, second = (make_round(tmp_path, n, scenes) for n in (0, 1))
    for bank in (first, second):  # format 2 maps a file when it is read
        assert_holds(bank, scenes)
    prune_rounds(tmp_path, 1)
    assert_holds(first, scenes)
    other = make_scenes(seed=1)
    assert_holds(make_round(tmp_path, 1, other), other)
    assert_holds(second, scenes)
    with pytest.raises(FileNotFoundError, match='no such folder'):
        pickle.loads(pickle.dumps(first))


def test_what_cannot_be_deleted_now_is_tried_again(tmp_path, monkeypatch):
    for number in range(2):
        make_round(tmp_path, number, make_scenes())

    def refuse(path):
        raise OSError(errno.ENOTEMPTY, 'still open elsewhere', path)

    logged = []
    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'rmtree', refuse)
        patch.setattr(mask_bank, 'print_log',
                      lambda text, **kwargs: logged.append((text, kwargs)))
        assert prune_rounds(tmp_path, 1) == [0]
    assert 'still open elsewhere' in logged[0][0]
    assert logged[0][1]['level'] == logging.WARNING
    assert list_rounds(tmp_path) == [1]
    make_round(tmp_path, 0, make_scenes())
    assert sorted(os.listdir(tmp_path)) == ['round_0000', 'round_0001']


def test_rounds_are_set_aside_whole(tmp_path):
    for number in (0, 1, 7):
        make_round(tmp_path, number, make_scenes(seed=number))
    old = {n: content(tmp_path / f'round_{n:04d}') for n in (0, 1, 7)}
    hashes = {n: MaskBank(round_path(tmp_path, n)).hash for n in (0, 1, 7)}
    first = set_aside(tmp_path, keep=iter([0]))
    assert Path(first).parent == tmp_path
    assert re.fullmatch(r'earlier_\d{8}_\d{6}', Path(first).name)
    assert list_rounds(tmp_path) == [0] and list_rounds(first) == [1, 7]
    second = set_aside(tmp_path)  # within the same second, at times
    assert second != first and list_rounds(second) == [0]
    for number, folder in ((0, second), (1, first), (7, first)):
        assert content(round_path(folder, number)) == old[number]
        assert find_aside(tmp_path, number, hashes[number]) == folder
    assert find_aside(tmp_path, 7, hashes[1]) is None
    assert find_aside(tmp_path, 2, hashes[1]) is None
    assert set_aside(tmp_path) is None
    assert set_aside(tmp_path / 'absent') is None
    assert find_aside(tmp_path / 'absent', 0, '') is None
    # Nobody takes what lies there for rounds of the root.
    clear_leftovers(tmp_path)
    assert list_rounds(tmp_path) == [] and prune_rounds(tmp_path, 1) == []
    with pytest.raises(FileNotFoundError):
        MaskBank.open(tmp_path)
    make_round(tmp_path, 0, make_scenes())
    assert prune_rounds(tmp_path, 1) == []
    assert list_rounds(first) == [1, 7] and list_rounds(second) == [0]


@pytest.mark.parametrize('nth', [1, 2, 3])
def test_setting_aside_that_is_killed(tmp_path, monkeypatch, nth):
    """Each round is whole at one place; the newest is the last to go."""
    for number in range(3):
        make_round(tmp_path, number, make_scenes(seed=number))
    old = {n: content(tmp_path / f'round_{n:04d}') for n in range(3)}
    rename, calls = os.rename, []

    def killed(*args):
        calls.append(args)
        if len(calls) == nth:
            raise KeyboardInterrupt
        rename(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'rename', killed)
        with pytest.raises(KeyboardInterrupt):
            set_aside(tmp_path)
    assert list_rounds(tmp_path) == [0, 1, 2][nth - 1:]
    clear_leftovers(tmp_path)
    set_aside(tmp_path)
    assert list_rounds(tmp_path) == []
    found = {}
    for folder in tmp_path.glob('earlier_*/round_*'):
        assert folder.name not in found
        found[folder.name] = content(folder)
    assert found == {f'round_{n:04d}': old[n] for n in range(3)}


@pytest.mark.parametrize('relative', [True, False])
def test_rounds_that_are_links_stay_whole(bank_root, relative):
    """Such as on another disk: set aside, and pruned as links."""
    expected = {}
    for number in list_rounds(bank_root):
        path, away = Path(round_path(bank_root, number)), (
            bank_root.parent / 'disk' / f'r{number}')
        away.parent.mkdir(exist_ok=True)
        path.rename(away)
        path.symlink_to(os.path.relpath(away, bank_root)
                        if relative else away)
        expected[number] = content(away)
    assert len(expected) == 2
    folder = set_aside(bank_root, keep=[1])
    assert list_rounds(folder) == [0] and list_rounds(bank_root) == [1]
    assert content(round_path(folder, 0)) == expected[0]
    assert len(MaskBank.open(folder)) == len(MaskBank.open(bank_root))
    make_round(bank_root, 2, make_scenes())
    assert prune_rounds(bank_root, 1) == [1]
    assert not [name for name in os.listdir(bank_root) if 'trash' in name]
    assert content(bank_root.parent / 'disk' / 'r1') == expected[1]


# -- Bad input -------------------------------------------------------------


def test_nothing_to_open_says_how_to_make_masks(tmp_path):
    with pytest.raises(FileNotFoundError) as absent:
        MaskBank.open(tmp_path / 'absent')
    with pytest.raises(FileNotFoundError) as empty:
        MaskBank.open(tmp_path)
    assert 'no such folder' in str(absent.value)
    assert 'manifest.json' in str(empty.value)
    for error in (absent, empty):
        assert str(tmp_path) in str(error.value)
        assert 'tools/generate_masks.py' in str(error.value)
        assert 'tools/train.py' in str(error.value)


@pytest.mark.parametrize('use', [
    lambda p: MaskBankWriter(p, 0), lambda p: publish_round(p, 0, 1, {})
])
def test_format_1_refuses_stores(use):
    with pytest.raises(ValueError, match="memory-mapped.*'s3://bucket/masks'"):
        use('s3://bucket/masks')


def test_unknown_key_names_the_nearest(tmp_path):
    bank = make_round(tmp_path, 0, make_scenes())
    known = bank.keys()[3]
    for wrong in (os.path.basename(known), f'data/{known}', f'{known}x',
                  known + 'long' * 50, 'zzz', ''):
        assert wrong not in bank
        with pytest.raises(KeyError) as error:
            bank.label_map(wrong)
        message = error.value.args[0]
        assert repr(wrong) in message and bank.path in message
        assert '7 keys' in message
        assert any(repr(key) in message for key in bank.keys())
        if wrong.endswith('.jpg'):
            assert repr(known) in message


ARRAY_FILES = ['labels.npy', 'offsets.npy', 'sizes.npy', 'keys.npy']


@ONE
@pytest.mark.parametrize('name', ARRAY_FILES)
@pytest.mark.parametrize('damage', ['cut', 'grown', 'gone', 'header'])
def test_damage_is_found_on_opening(tmp_path, name, damage):
    bank = make_round(tmp_path, 0, make_scenes())
    file = Path(bank.path, name)
    data = file.read_bytes()
    if damage == 'gone':
        file.unlink()
    else:
        file.write_bytes({'cut': data[:-1], 'grown': data + b'0',
                          'header': b'?' + data[1:]}[damage])
    with pytest.raises(ValueError) as error:
        MaskBank.open(tmp_path)
    for part in (bank.path, name, 'expected', 'found', 'checkpoint',
                 'tools/generate_masks.py'):
        assert part in str(error.value)


@ONE
@pytest.mark.parametrize('name', ARRAY_FILES)
def test_verify_finds_one_altered_byte(tmp_path, name):
    bank = make_round(tmp_path, 0, make_scenes())
    file = Path(bank.path, name)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError) as error:
        MaskBank.open(tmp_path, verify=True)
    assert bank.manifest['files'][name]['sha256'] in str(error.value)
    assert hashlib.sha256(data).hexdigest() in str(error.value)
    assert name in str(error.value)


def replace_array(bank, name, array):
    """Put another array in a round and in its manifest."""
    np.save(Path(bank.path, name), array)
    manifest = copy.deepcopy(bank.manifest)
    data = Path(bank.path, name).read_bytes()
    manifest['files'][name] = dict(
        bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    Path(bank.path, 'manifest.json').write_text(json.dumps(manifest))


@ONE
@pytest.mark.parametrize('name, alter', [
    ('labels.npy', lambda a: a.astype('<i4')),
    ('labels.npy', lambda a: a[:-1]),
    ('offsets.npy', lambda a: a[:-1]),
    ('offsets.npy', lambda a: a.astype('<i4')),
    ('offsets.npy', lambda a: a + 1),
    ('sizes.npy', lambda a: a[:, :1]),
    ('sizes.npy', lambda a: a.astype('<f4')),
    ('keys.npy', lambda a: a[1:]),
    ('keys.npy', lambda a: a.astype('U')),
    ('keys.npy', lambda a: a[:0]),
])
def test_arrays_that_do_not_fit_are_refused(tmp_path, name, alter):
    bank = make_round(tmp_path, 0, make_scenes())
    replace_array(bank, name, alter(np.load(Path(bank.path, name))))
    with pytest.raises(ValueError, match='altered or damaged'):
        MaskBank.open(tmp_path)


@ONE
def test_pickled_arrays_are_never_read(tmp_path):
    bank = make_round(tmp_path, 0, make_scenes())
    replace_array(bank, 'keys.npy', np.array([{}] * 7, object))
    with pytest.raises(ValueError, match='altered or damaged'):
        MaskBank.open(tmp_path)


@ONE
def test_a_map_whose_size_is_altered_is_not_read(tmp_path):
    bank = make_round(tmp_path, 0, make_scenes())
    replace_array(bank, 'sizes.npy',
                  np.load(Path(bank.path, 'sizes.npy')) + 1)
    altered = MaskBank.open(tmp_path)
    with pytest.raises(ValueError, match='offsets.npy or sizes.npy'):
        altered.label_map(bank.keys()[0])


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', '\xff', 'null',
                                  '{"format_version": 1, "round": 0}',
                                  '{"format_version": 2, "round": 0}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    bank = make_round(tmp_path, 0, make_scenes())
    Path(bank.path, 'manifest.json').write_text(text, encoding='latin1')
    with pytest.raises(ValueError, match='manifest.json is altered'):
        MaskBank.open(tmp_path)


def test_a_future_format_is_refused(tmp_path):
    bank = make_round(tmp_path, 0, make_scenes())
    Path(bank.path, 'manifest.json').write_text(
        json.dumps(dict(bank.manifest, format_version=3)))
    with pytest.raises(ValueError, match=r'format 3, .* formats \(1, 2\)'):
        MaskBank.open(tmp_path)


def new_writer(root, number=0, rank=0):
    return MaskBankWriter(root, number, rank) if FORMAT == 1 else BlockWriter(
        root, number, groups_of(['a.jpg'], number).salt, rank)


@pytest.mark.parametrize('label_map, found', [
    (np.zeros((2, 2)), 'float64'),
    (np.zeros((2, 2), bool), 'bool'),
    (np.zeros((1, 1, 2, 2), int), r'\(1, 1, 2, 2\)'),
    (np.zeros(4, int), r'\(4,\)'),
    (np.zeros((0, 2), int), r'\(0, 2\)'),
    (np.full((2, 2), -1), 'from -1'),
    (np.full((2, 2), 65536), 'to 65536'),
])
def test_bad_label_maps_are_refused(tmp_path, label_map, found):
    writer = new_writer(tmp_path)
    with pytest.raises(ValueError, match=f"'a.jpg' must be.*{found}"):
        writer.add(0, 'a.jpg', label_map)
    writer.add(0, 'a.jpg', np.zeros((2, 2), int))
    assert len(publish(tmp_path, 0, ['a.jpg'], writer.close())) == 1


@pytest.mark.parametrize('key', ['', 'a\0b.jpg', 'a\0'])
def test_bad_keys_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match='A key must be'):
        new_writer(tmp_path).add(0, key, np.zeros((2, 2), int))


def add_all(root, entries):
    writer = MaskBankWriter(root, 1)
    for index, key in entries:
        writer.add(index, key, np.zeros((2, 2), int))
    writer.close()


@ONE
@pytest.mark.parametrize('entries, error, message', [
    ([(0, 'a'), (1, 'b'), (2, 'a')], ValueError,
     r"Images \[0, 2\] have the same key 'a' \(1 such"),
    ([(0, 'a'), (1, 'b'), (1, 'c'), (2, 'd')], ValueError,
     r'1 images more than once \(first: index 1\).*round_up=False'),
    ([(0, 'a'), (1, 'b'), (3, 'c')], ValueError, r'indices \[3\]'),
    ([(0, 'a'), (1, 'b'), (-1, 'c')], ValueError, r'indices \[-1\]'),
    ([(1, 'a')], RuntimeError,
     r'lacks 2 of 3 label maps \(first: index 0\).*ranks \[0\].*'
     'not on a file system shared by all nodes'),
    ([], RuntimeError, 'lacks 3 of 3'),
])
def test_publishing_needs_each_image_once(tmp_path, entries, error, message):
    make_round(tmp_path, 0, make_scenes())
    before = content(tmp_path / 'round_0000')
    add_all(tmp_path, entries)
    with pytest.raises(error, match=message):
        publish_round(tmp_path, 1, 3, {})
    assert list_rounds(tmp_path) == [0]
    assert content(tmp_path / 'round_0000') == before
    assert_holds(make_round(tmp_path, 1, make_scenes(3)), make_scenes(3))


@ONE
def test_publishing_without_shards_or_images_fails(tmp_path):
    with pytest.raises(RuntimeError, match=r'lacks 2 of 2 .* ranks \[\]'):
        publish_round(tmp_path, 0, 2, {})
    with pytest.raises(ValueError, match='num_images=0'):
        publish_round(tmp_path, 0, 0, {})
    with pytest.raises(ValueError, match='count from 0, found -1'):
        publish_round(tmp_path, -1, 1, {})


def lacks(rank, images, of):
    """What is said if only one rank has finished."""
    return (rf'lacks {images} of {of} .* ranks \[{rank}\]' if FORMAT == 1 else
            rf'of {of} images, .* of \d+; missing are \[[\d, ]+\]')


def test_a_rank_that_did_not_close_is_missing(tmp_path):
    scenes = make_scenes()
    blocks = write_shard(tmp_path, 0, scenes, 0, 2)
    writer = new_writer(tmp_path, rank=1)
    writer.add(1, 'a.jpg', np.zeros((2, 2), int))
    with pytest.raises(RuntimeError, match=lacks(0, 3, 7)):
        publish(tmp_path, 0, scenes, blocks)


def test_a_stale_shard_is_not_mixed_in(tmp_path):
    write_shard(tmp_path, 0, make_scenes(), 1, 2)
    with pytest.raises(FileExistsError, match='clear_leftovers'):
        new_writer(tmp_path, rank=1).add(0, 'a.jpg', np.zeros((2, 2), int))
    clear_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
    MaskBankWriter(tmp_path, 0, rank=1).close()


@pytest.mark.parametrize('meta, error, message', [
    (dict(salt=1, files=1, round=2), ValueError, 'set .*round'),
    (dict(seed=np.int64(1)), TypeError, 'int64'),
    (dict(keys={'a', 'b'}), TypeError, 'set'),
])
def test_bad_meta_is_refused_before_the_work(tmp_path, meta, error, message):
    with pytest.raises(error, match=message):
        publish(tmp_path, 0, ['a.jpg'], [], meta)
    assert os.listdir(tmp_path) == []


def test_clearing_leaves_all_else_alone(tmp_path):
    make_round(tmp_path, 0, make_scenes())
    for name in ('.git', '.round', 'round_0001.partial', '.round_1.partial',
                 '.round_0001.partial.bak'):
        (tmp_path / name).mkdir()
    before = sorted(os.listdir(tmp_path))
    clear_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
    clear_leftovers(tmp_path / 'absent')


# -- Faults ----------------------------------------------------------------
# Each attempt runs in a child that is killed there: an audit hook sees every
# call to the file system (opening, for fsync as well, making, renaming,
# deleting) just before it happens.

EVENTS = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir')


def attempt(root, number, scenes, world_size, keep):
    """What the mask update does to the disk."""
    make_round(root, number, scenes, world_size)
    prune_rounds(root, keep)


def watched(root, at_event, *args):
    """Run an attempt in this process, calling ``at_event`` at each step."""
    def hook(event, details):
        path = details[event == 'os.rename'] if event in EVENTS else None
        if isinstance(path, str | os.PathLike):
            path = os.fspath(path)
            if path.startswith(str(root)):
                at_event(f'{event} {os.path.relpath(path, root)}')
            elif not os.path.isabs(path):  # As shutil.rmtree goes down.
                at_event(f'{event} {path}')

    sys.addaudithook(hook)
    with no_sync():
        attempt(root, *args)


def in_child(target, *args):
    """Exit code of a forked process."""
    child = multiprocessing.get_context('fork').Process(
        target=target, args=args)
    child.start()
    child.join(60)
    return child.exitcode


def list_steps(root, *args):
    context = multiprocessing.get_context('fork')
    queue = context.SimpleQueue()

    def record():
        steps = []
        watched(root, steps.append, *args)
        queue.put(steps)

    assert in_child(record) == 0
    return queue.get()


def kill_at(step, root, *args):
    """Run an attempt in a child that gets SIGKILL at the n-th step."""
    def run():
        left = [step]

        def at_event(name):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        watched(root, at_event, *args)

    assert in_child(run) == -signal.SIGKILL


@pytest.fixture
def bank_root(tmp_path):
    """A root with rounds 0 and 1, to be copied for each fault."""
    root = tmp_path / 'before'
    for number in (0, 1):
        make_round(root, number, make_scenes(seed=number))
    return root


@pytest.mark.parametrize('number, crashed, world_size', [
    (2, False, 1), (2, False, 2), (1, False, 1), (1, True, 2)
], ids=['new', 'new_by_two', 'replaced', 'killed_before'])
def test_killed_at_any_step(tmp_path, bank_root, number, crashed, world_size,
                            form):
    scenes = make_scenes(4, seed=9)
    args = (number, scenes, world_size, 2 if number == 2 else 1)
    old = {n: content(bank_root / f'round_{n:04d}') for n in (0, 1)}
    if crashed:  # As if killed between the two renames, and while pruning.
        (bank_root / 'round_0001').rename(bank_root / '.round_0001.replaced')
        write_shard(bank_root, 1, make_scenes())
        shutil.copytree(bank_root / 'round_0000',
                        bank_root / '.round_trash-round_0000')
        next((bank_root / '.round_trash-round_0000').iterdir()).unlink()
        shutil.copytree(bank_root / 'round_0000',
                        bank_root / '.round_0001.merged')
    shutil.copytree(bank_root, tmp_path / 'whole')
    steps = list_steps(tmp_path / 'whole', *args)
    whole = {name: content(tmp_path / 'whole' / name)
             for name in os.listdir(tmp_path / 'whole')}
    new = f'round_{number:04d}'
    assert set(whole) == ({'round_0001', new} if number == 2 else {new})
    # Every named step is among those at which it is killed.
    last = world_size - 1
    named = {
        f'open .{new}.partial/rank_0000{last}.labels',
        f'os.mkdir .{new}.merged',
        f'open .{new}.merged/keys.npy',
        f'open .{new}.merged/manifest.json',  # To write, to sync, to verify.
        f'open .{new}.merged',  # To sync, just before the rename.
        f'os.rename .round_trash-.{new}.partial',
    } if form == 1 else {
        f'os.mkdir .{new}.partial',
        f'open .{new}.partial/part_0000{last}_0000.masks',
        f'open .{new}.partial/manifest.json',
        f'open .{new}.partial',
    }
    assert named | {
        f'os.rename {new}',
        'open .',  # To sync, just after the rename.
        'os.rename .round_trash-round_0000',  # Pruning.
        'os.remove manifest.json',
        'os.rmdir .round_trash-round_0000',
    } <= set(steps)

    for step, name in enumerate(steps):
        if name == steps[step - 1]:
            continue  # The same file is opened once more: nothing changed.
        root = tmp_path / 'after'
        shutil.copytree(bank_root, root)
        kill_at(step, root, *args)
        # What is published is whole: as it was before, or as meant.
        rounds = list_rounds(root)
        for published in rounds:
            MaskBank.open(round_path(root, published), verify=True)
            found = content(round_path(root, published))
            wanted = whole.get(f'round_{published:04d}')
            assert found in (wanted, old.get(published)), name
        assert rounds and MaskBank.open(root).round == rounds[-1], name
        clear_leftovers(root)
        assert 1 in list_rounds(root), name
        assert not [x for x in os.listdir(root) if x.startswith('.')], name
        # The next attempt ends as an undisturbed one.
        with no_sync():
            attempt(root, *args)
        assert {x: content(root / x) for x in os.listdir(root)} == whole, name
        shutil.rmtree(root)


def kill_in_add(root, scenes):
    writer = new_writer(root, 2, rank=1)
    for index, (key, label_map) in enumerate(scenes.items()):
        writer.add(index, key, label_map)
        file_of(writer).flush()  # Some of it has reached the disk.
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_while_writing_a_shard_beside_a_living_rank(bank_root):
    scenes = make_scenes(6, seed=9)
    blocks = write_shard(bank_root, 2, scenes, 0, 2)
    assert in_child(kill_in_add, bank_root, scenes) == -signal.SIGKILL
    with pytest.raises(RuntimeError, match=lacks(0, 3, 6)):
        publish(bank_root, 2, scenes, blocks)
    assert list_rounds(bank_root) == [0, 1]
    again = make_round(bank_root, 2, scenes, world_size=2)
    assert essence(again) == essence(
        make_round(bank_root.parent / 'other', 2, scenes))


def file_of(writer):
    return writer._labels if FORMAT == 1 else writer._file


def kill_in_merge(root, scenes):
    """Die when some label maps are copied, and the copies on the disk."""
    read = mask_arrays._read_labels

    def read_two(*args):
        labels = read(*args)
        yield next(labels)
        yield next(labels) + bytes(1 << 20)  # More than a buffer holds.
        os.kill(os.getpid(), signal.SIGKILL)

    mask_arrays._read_labels = read_two
    make_round(root, 2, scenes)


@ONE
def test_killed_half_way_through_merging(bank_root):
    scenes = make_scenes(6, seed=9)
    assert in_child(kill_in_merge, bank_root, scenes) == -signal.SIGKILL
    merged = bank_root / '.round_0002.merged'
    assert (merged / 'labels.npy').stat().st_size > 1 << 20
    assert list_rounds(bank_root) == [0, 1]
    assert MaskBank.open(bank_root).round == 1
    # The shards are whole: they can be published again, or made again.
    again = publish_round(bank_root, 2, len(scenes), META)
    assert content(again.path) == content(
        make_round(bank_root.parent / 'other', 2, scenes).path)


def test_a_file_that_changes_before_it_is_on_the_disk_stops_the_round(
        bank_root, monkeypatch, form):
    """Format 2 is not read again here, but when a run resumes with it."""
    fsync = os.fsync

    def corrupt(descriptor):
        path = path_of(descriptor)
        if path.endswith(('.merged/labels.npy', '0000.masks')):
            with open(path, 'r+b') as file:
                file.seek(-1, os.SEEK_END)
                file.write(b'\xfe')
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', corrupt)
    with pytest.raises(ValueError, match='(labels.npy|masks.*) is altered'):
        bank = make_round(bank_root, 2, make_scenes())
        assert bank.format_version == 2
        MaskBank(bank.path, verify=True)
    assert list_rounds(bank_root) == [0, 1] if form == 1 else [0, 1, 2]


def test_files_then_folder_are_synced_before_the_rename(bank_root,
                                                        monkeypatch, form):
    calls = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, 'fsync', lambda descriptor: (
        calls.append(os.path.relpath(path_of(descriptor), bank_root)),
        fsync(descriptor)))
    monkeypatch.setattr(os, 'rename', lambda old, new: (
        calls.append(f'rename to {os.path.relpath(new, bank_root)}'),
        rename(old, new)))
    make_round(bank_root, 2, make_scenes())
    if form == 2:
        folder = '.round_0002.partial'
        assert calls == [
            f'{folder}/part_00000_0000.masks', f'{folder}/manifest.json',
            folder, 'rename to round_0002', '.']
        return
    calls = calls[2:calls.index('rename to round_0002') + 2]
    assert {f'.round_0002.merged/{name}'
            for name in [*ARRAY_FILES, 'manifest.json']} == set(calls[:5])
    assert calls[5:] == ['.round_0002.merged', 'rename to round_0002', '.']


def mount_small_disk(folder, size):
    """Mount a file system that this process alone sees, if it may."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()

    def map_user():
        Path('/proc/self/setgroups').write_text('deny')
        Path('/proc/self/uid_map').write_text(f'0 {user} 1')
        Path('/proc/self/gid_map').write_text(f'0 {group} 1')

    new_user, new_mounts = 0x10000000, 0x20000
    if (libc.unshare(new_user | new_mounts)
            or map_user()
            or libc.mount(b'tmpfs', os.fsencode(folder), b'tmpfs', 0, size)):
        raise OSError(ctypes.get_errno(), 'cannot mount')


def fill_disk(root, queue):
    try:
        mount_small_disk(root, b'size=512k')
    except (OSError, AttributeError) as error:
        return queue.put(repr(error))
    queue.put(None)
    maps = {side: {'a.jpg': np.ones((side, side), int)}
            for side in (64, 200, 500, 800)}
    make_round(root, 0, maps[64])
    before = content(root / 'round_0000')
    # Too large for a shard; for shard and merge.
    for side in (800, 500)[:3 - FORMAT]:
        with pytest.raises(OSError, match='No space left') as error:
            make_round(root, 1, maps[side])
        assert error.value.errno == errno.ENOSPC
        assert f'{root}' in str(error.value)
        assert 'bytes free' in str(error.value)
        assert content(root / 'round_0000') == before
        assert list_rounds(root) == [0]
    assert_holds(make_round(root, 1, maps[200]), maps[200])
    assert sorted(os.listdir(root)) == ['round_0000', 'round_0001']


def test_disk_full(tmp_path):
    queue = multiprocessing.get_context('fork').SimpleQueue()
    code = in_child(fill_disk, tmp_path, queue)
    if refused := queue.get():
        pytest.skip(f'The kernel lets us mount no small disk: {refused}')
    assert code == 0


@pytest.mark.parametrize('name', ['rank_00000.labels', 'rank_00000.npy',
                                  'labels.npy', 'keys.npy',
                                  'part_00000_0000.masks', 'manifest.json',
                                  '.round_0002.folder', 'before'])
def test_no_room_at_any_file(bank_root, monkeypatch, name, form):
    name = name.replace('folder', 'merged' if form == 1 else 'partial')
    if name.endswith('.masks' if form == 1 else ('npy', 'labels')):
        pytest.skip('no file of this format')
    fsync = os.fsync

    def full(descriptor):
        path = os.readlink(f'/proc/self/fd/{descriptor}')
        if os.path.basename(path) == name:
            raise OSError(errno.ENOSPC, 'No space left on device')
        fsync(descriptor)

    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('finds the name of an open file in /proc')
    before = content(bank_root / 'round_0001')
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(OSError) as error:
            make_round(bank_root, 2, make_scenes())
    assert error.value.errno == errno.ENOSPC
    assert str(bank_root) in str(error.value)
    assert 'bytes free' in str(error.value)
    assert content(bank_root / 'round_0001') == before
    # Once renamed (the last fsync), it is published; never half of it.
    assert list_rounds(bank_root) == [0, 1] + [2] * (name == 'before')
    make_round(bank_root, 2, make_scenes())
    assert sorted(os.listdir(bank_root)) == [f'round_{n:04d}'
                                             for n in range(3)]


def test_a_failed_write_leaves_no_file_open(tmp_path):
    """Deleting it would give a full disk no room back."""
    writer = new_writer(tmp_path)
    writer.add(0, 'b.jpg', np.ones((2, 2), int))
    file = file_of(writer)
    with open('/dev/full', 'wb') as full:
        os.dup2(full.fileno(), file.fileno())
    with pytest.raises(OSError, match='No space left') as held:
        writer.add(0, 'a.jpg', np.ones((500, 500), int))
    assert held.value.errno == errno.ENOSPC and file.closed


def write_unprivileged(root, queue):
    if os.geteuid() == 0:
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
    for use in (lambda: new_writer(root, 1),
                lambda: prune_rounds(root, 0) + prune_rounds(root, 1),
                lambda: MaskBank.open(root, verify=True).round):
        try:
            queue.put(use())
        except OSError as error:
            queue.put((type(error).__name__, str(error)))


def test_read_only_folder():
    root = tempfile.mkdtemp()  # Not tmp_path, which others cannot enter.
    try:
        for number in (0, 1):
            make_round(root, number, make_scenes())
        os.chmod(root, 0o555)
        queue = multiprocessing.get_context('fork').SimpleQueue()
        assert in_child(write_unprivileged, root, queue) == 0
        for _ in range(2):
            kind, message = queue.get()
            assert kind == 'PermissionError'
            assert root in message and 'bytes free' in message
            assert 'writable' in message
        assert queue.get() == 1
        assert list_rounds(root) == [0, 1]
    finally:
        os.chmod(root, 0o755)
        shutil.rmtree(root)


# -- Cost ------------------------------------------------------------------

def resident():
    """MiB of this process in memory, mapped files included."""
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) / 1024 for line in file
                    if line.startswith('VmRSS'))


def measure(path, queue):
    before, start = resident(), time.perf_counter()
    bank = MaskBank.open(path)
    opened, growth = time.perf_counter(), resident() - before
    keys = bank.keys()
    listed = time.perf_counter()
    chosen = random.Random(0).sample(keys, min(len(keys), 20000))
    for key in chosen:
        bank.label_map(key).sum()  # Warms it.
    views, copies = [], []
    for key in chosen:
        begun = time.perf_counter()
        label_map = bank.label_map(key)
        seen = time.perf_counter()
        label_map.copy()
        views.append(1e6 * (seen - begun))
        copies.append(1e6 * (time.perf_counter() - begun))
    begun = time.perf_counter()
    MaskBank.open(path, verify=True)
    queue.put(dict(
        open_seconds=opened - start,
        open_rss_mib=growth,
        verify_seconds=time.perf_counter() - begun,
        keys_seconds=listed - opened,
        view_us=np.median(views),
        read_us=np.median(copies),
        read_us_99th=np.percentile(copies, 99)))


def build_and_measure(root, num_images, method):
    if not os.path.isdir('/proc/self'):
        pytest.skip('reads its memory from /proc')
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (64, 60, 80), dtype=np.uint8)
    start = time.perf_counter()
    keys = [f'train2017/{index * 5:012d}.jpg' for index in range(num_images)]
    if FORMAT == 1:
        writer = MaskBankWriter(root, 0)
        for index, key in enumerate(keys):
            writer.add(index, key, pool[index % len(pool)])
        writer.close()
        written = time.perf_counter()
        bank = publish_round(root, 0, num_images, META)
    else:
        groups = KeyedGroups(keys, 7, 0, 16)
        writer = BlockWriter(root, 0, groups.salt)
        for group in groups.of_rank(0, 1):
            for index in groups.members(group):
                writer.add(groups.block(group), keys[index],
                           pool[index % len(pool)])
        blocks = writer.close()
        written = time.perf_counter()
        bank = publish_blocks(root, 0, groups.layout(), blocks, META)
    published = time.perf_counter()
    size = sum(len(data) for data in content(bank.path).values())
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=measure, args=(bank.path, queue))
    child.start()
    result = queue.get()
    child.join()
    return dict(result, bytes_per_image=size / num_images,
                write_seconds=written - start,
                publish_seconds=published - written)


def check_cost(result):
    assert result['bytes_per_image'] <= 5000
    assert result['open_seconds'] < 1
    assert result['open_rss_mib'] < 50
    assert result['read_us'] < 50


def test_small_bank_is_cheap(tmp_path):
    check_cost(build_and_measure(tmp_path, 2000, 'fork'))


@pytest.mark.slow
def test_bank_of_the_size_of_coco_is_cheap(tmp_path):
    result = build_and_measure(tmp_path, 118000, 'spawn')
    shutil.rmtree(tmp_path / 'round_0000')
    print('\n' + '\n'.join(f'{name}: {value:.4g}' for name, value
                           in result.items()))
    check_cost(result)
