"""Format 2 of a mask bank: its files, its look-ups, and what damages it.

test_mask_bank.py runs its own tests for this format, too.
"""
import hashlib
import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyborgs_plugin.datasets import mask_blocks
from cyborgs_plugin.datasets.keys import SortedKeys
from cyborgs_plugin.datasets.mask_bank import (
    MaskBank,
    clear_leftovers,
    list_rounds,
    publish_blocks,
    set_aside,
)
from cyborgs_plugin.datasets.mask_blocks import BlockWriter
from cyborgs_plugin.segmentation import groups as groups_module
from cyborgs_plugin.segmentation.groups import KeyedGroups, ShuffledGroups

META = dict(seed=7)


def make_scenes(num=12, seed=0):
    rng = np.random.default_rng(seed)
    return {f'd{i % 3}/{(i * 37) % 101:04d}.jpg': rng.integers(
        0, 200, rng.integers(1, 9, 2)) for i in range(num)}


def write(root, number, scenes, world_size=1, group_size=2):
    """Groups and blocks of a round, written but not published."""
    clear_leftovers(root)
    groups, keys = KeyedGroups(scenes, 7, number, group_size), list(scenes)
    blocks = []
    for rank in range(world_size):
        writer = BlockWriter(root, number, groups.salt, rank)
        for group in groups.of_rank(rank, world_size):
            for index in groups.members(group):
                writer.add(groups.block(group), keys[index],
                           scenes[keys[index]])
        blocks += writer.close()
    return groups, blocks


def make(root, number=0, scenes=None, **options):
    groups, blocks = write(root, number, scenes or make_scenes(), **options)
    return publish_blocks(root, number, groups.layout(), blocks, META)


def assert_holds(bank, scenes):
    assert bank.keys() == sorted(scenes) and len(bank) == len(scenes)
    assert sorted(map(bank.row, scenes)) == list(range(len(scenes)))
    for key, label_map in scenes.items():
        np.testing.assert_array_equal(bank.label_map(key), label_map)


# -- What it holds ---------------------------------------------------------


def test_files_are_as_documented(tmp_path):
    """Read without this package, by docs/mask_bank.md."""
    scenes = make_scenes()
    bank = make(tmp_path, 3, scenes, world_size=2)
    assert bank.path == str(tmp_path / 'round_0003')
    assert sorted(os.listdir(bank.path)) == [
        'manifest.json', 'part_00000_0000.masks', 'part_00001_0000.masks']
    manifest = json.loads(Path(bank.path, 'manifest.json').read_text())
    assert manifest == bank.manifest
    assert {name: manifest[name] for name in (
        'format_version', 'round', 'num_images', 'num_clusterings', 'itemsize',
        'seed')} == dict(format_version=2, round=3, num_images=12,
                         num_clusterings=1, itemsize=1, seed=7)
    salt = bytes.fromhex(manifest['salt'])
    assert salt == hashlib.sha256(b'7 3').digest()[:16]
    found, places = {}, []
    for block in manifest['blocks']:
        whole = Path(bank.path, block['file']).read_bytes()
        data = whole[block['start']:block['start'] + block['bytes']]
        assert hashlib.sha256(data).hexdigest() == block['sha256']
        count, at = block['images'], block['index']
        starts = np.frombuffer(data, '<i8', count, at)
        sizes = np.frombuffer(data, '<i4', 3 * count, at + 8 * count).reshape(
            -1, 3)
        keys = np.frombuffer(data, f'S{block["key_width"]}', count,
                             at + 20 * count).tolist()
        assert keys == sorted(keys)
        here = sorted(hashlib.blake2b(key, digest_size=16, salt=salt).digest()
                      for key in keys)
        assert here[0].hex() == block['first']
        places += here
        for key, start, (height, width, itemsize) in zip(
                keys, starts, sizes, strict=True):
            found[key.decode()] = np.frombuffer(
                data, f'<u{itemsize}', height * width, start).reshape(
                    height, width)
    assert places == sorted(places)
    assert found.keys() == scenes.keys()
    for key, label_map in scenes.items():
        np.testing.assert_array_equal(found[key], label_map)


def test_small_files_many_parts_and_few_maps_at_once(tmp_path, monkeypatch):
    """As of a hundred million images: more files than are mapped at once."""
    monkeypatch.setattr(mask_blocks, 'FILE_BYTES', 1)
    monkeypatch.setattr(mask_blocks, '_MOST_FILES', 3)
    monkeypatch.setattr(groups_module, '_PART', 10)
    scenes = make_scenes(97)
    banks = [make(tmp_path / str(size), 0, scenes, world_size=size)
             for size in (1, 3, 7)]
    assert len({bank.hash for bank in banks}) == 1
    for bank in banks:
        assert len(os.listdir(bank.path)) > 40
        before = len(os.listdir('/proc/self/fd'))
        assert_holds(MaskBank(bank.path, verify=True), scenes)
        assert len(bank.manifest['parts']) == 10
        assert len(os.listdir('/proc/self/fd')) - before <= 3
        assert bank.keys(9) == sorted(
            bank.key_of(row) for row in range(0, 97, 11))
        for wrong in ('', 'a', 'd0', 'd1/zz', 'z', 'd0/0000.jpg\udcff'):
            assert wrong not in bank
            with pytest.raises(KeyError, match='the nearest is'):
                bank.label_map(wrong)


@settings(max_examples=50, deadline=None)
@given(
    keys=st.sets(st.text('abé/\U0001f600\udc80', min_size=1, max_size=4),
                 min_size=1, max_size=40),
    seed=st.integers(0, 3),
    group_size=st.integers(1, 9),
    world_size=st.integers(1, 5))
def test_laws_of_groups(keys, seed, group_size, world_size):
    """Each image once; no group depends on the ranks or on the order in which
    images are listed; what a rank reads lies together."""
    with mock.patch.object(groups_module, '_PART', 12), \
            mock.patch.object(groups_module, '_BLOCKS', 3), \
            mock.patch.object(groups_module, '_BLOCK', 8):
        names = sorted(keys, key=lambda key: key.encode('utf-8',
                                                        'surrogateescape'))
        listed = names[::2] + names[1::2]
        groups = KeyedGroups(listed, seed, 0, group_size)
        again = KeyedGroups(names, seed, 0, group_size)
        of = [[listed[index] for index in groups.members(group)]
              for group in range(groups.num_groups)]
        assert of == [[names[index] for index in again.members(group)]
                      for group in range(groups.num_groups)]
        assert sorted(sum(of, [])) == sorted(keys)
        assert {len(group) for group in of[:-1]} <= {group_size}
        ranks = [groups.of_rank(rank, world_size)
                 for rank in range(world_size)]
        assert [group for rank in ranks for group in rank] == list(
            range(groups.num_groups))
        owner = {}
        for rank, mine in enumerate(ranks):
            for group in mine:
                assert owner.setdefault(groups.block(group), rank) == rank
        layout = groups.layout()
        assert len(owner) == layout['num_blocks']
        # Parts follow one another in the order of names.
        of_part = [[] for _ in layout['parts']]
        for group, members in enumerate(of):
            of_part[groups.block(group) // layout['blocks_per_part']
                    ] += members
        place = {name: number for number, name in enumerate(names)}
        ordered = [sorted(map(place.get, part)) for part in of_part]
        assert sum(ordered, []) == list(range(len(names)))
        assert layout['parts'] == [names[part[0]] for part in ordered]


def test_groups_of_few_images_are_drawn_from_all():
    """As in format 1, and others in each round."""
    keys = [f'{number:05d}' for number in range(4000)]
    for groups in (KeyedGroups(keys, 0, 0, 16),
                   ShuffledGroups(len(keys), 0, 0, 16)):
        spreads = [np.ptp(groups.members(number)) for number in range(250)]
        assert 3300 < np.mean(spreads) < 3700  # 4000 * 15 / 17 is expected
    first, second = (KeyedGroups(keys, 0, n, 16).members(0) for n in (0, 1))
    assert len({*first} & {*second}) < 4


@pytest.mark.parametrize('count', [118_287, 1_000_000])
def test_blocks_share_out_the_work(count):
    """Of COCO, and of a million images, among up to 512 ranks."""
    keys = mock.MagicMock(spec=SortedKeys)
    keys.__len__.return_value = count
    groups = KeyedGroups(keys, 0, 0, 16)
    for world_size, most in ((1, 1), (8, 1.01), (64, 1.05), (512, 1.15)):
        largest = max(len(groups.of_rank(rank, world_size))
                      for rank in range(world_size))
        share = groups.num_groups / world_size
        assert largest / share <= most, (world_size, largest, share)


def test_two_images_of_one_key_are_refused():
    with pytest.raises(ValueError, match=r"Images \[1, 3\] have the same key "
                                         r"'a' \(1 such\)"):
        KeyedGroups(['b', 'a', 'c', 'a'], 0, 0, 2)
    with pytest.raises(ValueError, match='at least one image'):
        KeyedGroups([], 0, 0, 2)
    with pytest.raises(ValueError, match='A key must be'):
        KeyedGroups(['a\0'], 0, 0, 2)


def test_ids_of_two_widths(tmp_path):
    scenes = {'a': np.array([[1, 2, 3]]), 'b': np.array([[300]]),
              'c': np.array([[255]]), 'd': np.array([[65535, 0]])}
    bank = make(tmp_path, 0, scenes, group_size=4)
    assert_holds(bank, scenes)
    for key in scenes:
        label_map = bank.label_map(key)
        assert label_map.dtype == np.uint16 and label_map.flags.aligned
        with pytest.raises(ValueError, match='read-only'):
            label_map[0, 0] = 1


# -- What is refused -------------------------------------------------------


@pytest.mark.parametrize('damage', ['cut', 'grown', 'gone'])
def test_damage_is_found_on_opening(tmp_path, damage):
    bank = make(tmp_path, world_size=2)
    file = Path(bank.path, 'part_00001_0000.masks')
    data = file.read_bytes()
    file.unlink()
    if damage != 'gone':
        file.write_bytes(data[:-1] if damage == 'cut' else data + b'0')
    with pytest.raises(ValueError) as error:
        MaskBank.open(tmp_path)
    for part in (bank.path, file.name, 'expected', 'found', 'checkpoint',
                 'tools/generate_masks.py'):
        assert part in str(error.value)


def test_verify_finds_any_altered_byte(tmp_path):
    bank = make(tmp_path, scenes=make_scenes(3))
    file = Path(bank.path, 'part_00000_0000.masks')
    data = file.read_bytes()
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1
        file.write_bytes(altered)
        with pytest.raises(ValueError, match=file.name) as error:
            MaskBank.open(tmp_path, verify=True)
        assert any(block['sha256'] in str(error.value)
                   for block in bank.manifest['blocks'])
        # Without, nothing outside of the block is read.
        other = MaskBank.open(tmp_path)
        for key in bank.keys():
            try:
                if key in other:
                    other.label_map(key)
            except (ValueError, KeyError):
                pass


def test_exchanged_blocks_are_found(tmp_path):
    """The hash is not of where they are."""
    bank = make(tmp_path)
    manifest = json.loads(json.dumps(bank.manifest))
    first, second = manifest['blocks'][:2]
    first['start'], second['start'] = second['start'], first['start']
    Path(bank.path, 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match='altered or damaged'):
        MaskBank(bank.path, verify=True)


@pytest.mark.parametrize('name, value', [
    ('salt', ''), ('salt', 'xy'), ('salt', 1), ('parts', []), ('parts', [1]),
    ('parts', ['a', 'b']), ('blocks_per_part', 0), ('itemsize', 4),
    ('itemsize', []), ('num_images', 11), ('blocks', []), ('blocks', 3),
    ('blocks', [{}]), ('num_clusterings', None)])
def test_an_altered_manifest_is_named(tmp_path, name, value):
    bank = make(tmp_path)
    Path(bank.path, 'manifest.json').write_text(json.dumps(
        bank.manifest | {name: value}))
    with pytest.raises(ValueError, match='manifest.json is altered'):
        MaskBank(bank.path)


@pytest.mark.parametrize('name, value', [
    ('file', '../../secret.masks'), ('file', '/etc/passwd'), ('file', 3),
    ('start', -8), ('start', 4), ('images', 0), ('images', True),
    ('images', 10**9), ('index', -8), ('index', 2**70), ('key_width', 0),
    ('key_width', 1.5), ('bytes', 8), ('bytes', None), ('sha256', None),
    ('first', 'x'), ('first', None)])
def test_an_altered_block_is_named(tmp_path, name, value):
    bank = make(tmp_path)
    bank.manifest['blocks'][1][name] = value
    Path(bank.path, 'manifest.json').write_text(json.dumps(bank.manifest))
    with pytest.raises(ValueError, match='manifest.json is altered'):
        MaskBank(bank.path)


@pytest.mark.parametrize('alter, error, message', [
    (lambda blocks, folder: blocks.pop(), RuntimeError,
     r'6 blocks of 12 images, each once, .* 5 of 10; missing are \[5\]'),
    (lambda blocks, folder: blocks.append(blocks[0]), RuntimeError,
     'written 7 of 14'),
    (lambda blocks, folder: blocks[2].update(images=1), RuntimeError,
     'written 6 of 11'),
    (lambda blocks, folder: blocks[2].update(clusterings=2), ValueError,
     r'same number of clusterings, found \[1, 2\]'),
    (lambda blocks, folder: (folder / 'part_00001_0000.masks').unlink(),
     RuntimeError, 'found no file.*not on a file system shared by all nodes'),
    (lambda blocks, folder: (folder / 'part_00009_0000.masks').touch(),
     RuntimeError, r"holds \['part_00009_0000.masks'\].*clear_leftovers"),
])
def test_publishing_needs_each_block_once(tmp_path, alter, error, message):
    before = make(tmp_path, 0).hash
    groups, blocks = write(tmp_path, 1, make_scenes(), world_size=2)
    alter(blocks, tmp_path / '.round_0001.partial')
    with pytest.raises(error, match=message):
        publish_blocks(tmp_path, 1, groups.layout(), blocks, {})
    assert list_rounds(tmp_path) == [0]
    assert MaskBank.open(tmp_path, verify=True).hash == before
    assert_holds(make(tmp_path, 1), make_scenes())


def test_a_round_that_is_gone_or_another_is_not_read(tmp_path):
    """Its files are mapped when they are read first."""
    scenes = make_scenes()
    bank, other = make(tmp_path), MaskBank.open(tmp_path)
    for wrong in (lambda: make(tmp_path, scenes=make_scenes(seed=1)),
                  lambda: set_aside(tmp_path)):
        wrong()
        with pytest.raises(FileNotFoundError, match='pruned, moved or repl'):
            other.label_map(next(iter(scenes)))
        other = MaskBank.open(tmp_path) if list_rounds(tmp_path) else None
    with pytest.raises(FileNotFoundError, match='pruned, moved or replaced'):
        bank.label_map(next(iter(scenes)))
