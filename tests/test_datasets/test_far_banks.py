"""Mask rounds in a store, against the same rounds in a folder.

Most are in the memory of fsspec; S3 is a server of moto.
"""
import json
import os
import pickle
import re
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cyborgs_plugin.datasets import far_banks, far_shards, mask_blocks
from cyborgs_plugin.datasets.mask_bank import (
    MaskBank,
    clear_leftovers,
    find_aside,
    give_up_round,
    is_given_up,
    list_rounds,
    prune_rounds,
    publish_blocks,
    round_path,
    set_aside,
)
from cyborgs_plugin.datasets.mask_blocks import BlockWriter
from cyborgs_plugin.engine import MaskUpdateHook, TeacherFeaturesHook
from cyborgs_plugin.errors import MissingFileError, UserError
from cyborgs_plugin.segmentation import GridMasks, make_round

from ..helpers import images_of, in_processes
from .test_mask_blocks import META, assert_holds, make, make_scenes, write

STORE = fsspec.filesystem('memory')


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(far_shards, '_PAUSE', 0.001)
    monkeypatch.setenv('CYBORGS_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'cyborgs_masks'


@pytest.fixture
def root(tmp_path):
    yield f'memory:/{tmp_path}/store/masks'
    STORE.store.clear()


@pytest.fixture
def gets(monkeypatch):
    """Names of objects that were copied to this machine."""
    found, get_file = [], MemoryFileSystem.get_file

    def get(self, path, local, **more):
        found.append(path.rpartition('/')[2])
        get_file(self, path, local, **more)

    monkeypatch.setattr(MemoryFileSystem, 'get_file', get)
    return found


def objects(root):
    """Names of all objects below a root, relative to it."""
    files, path = fsspec.core.url_to_fs(root)
    return sorted(os.path.relpath(name, path) for name in files.find(path))


def copies(cache):
    return [path for path in cache.iterdir() if path.stat().st_size]


def forget(cache):
    """As another machine, which has no copies."""
    for path in copies(cache):
        path.unlink()


def part_of(bank):
    return bank.manifest['blocks'][0]['file']


# -- The same as a folder --------------------------------------------------


@pytest.mark.parametrize('file_bytes', [mask_blocks.FILE_BYTES, 100])
def test_the_same_as_a_folder(root, tmp_path, cache, monkeypatch, file_bytes):
    monkeypatch.setattr(mask_blocks, 'FILE_BYTES', file_bytes)
    scenes = make_scenes()
    bank = make(root, 3, scenes, world_size=2)
    near = make(tmp_path / 'near', 3, scenes)
    assert bank.path == f'{root}/round_0003' and list_rounds(root) == [3]
    assert bank.hash == near.hash and bank.num_bytes == near.num_bytes
    assert_holds(bank, scenes)
    for again in (MaskBank.open(root, verify=True),
                  pickle.loads(pickle.dumps(bank))):
        assert again.hash == near.hash
        assert_holds(again, scenes)
    names = {block['file'] for block in bank.manifest['blocks']}
    assert len(names) > 2 if file_bytes == 100 else len(names) == 2
    assert objects(root) == sorted(
        f'round_0003/{name}' for name in {'manifest.json', *names})
    forget(cache)
    assert_holds(MaskBank(bank.path), scenes)


def test_a_copy_is_a_folder(root, tmp_path):
    """And a folder that was copied there is a round."""
    scenes = make_scenes()
    bank = make(root, 0, scenes)
    STORE.get(f'{tmp_path}/store/masks', str(tmp_path / 'near'),
              recursive=True)
    near = MaskBank.open(tmp_path / 'near', verify=True)
    assert near.hash == bank.hash
    assert_holds(near, scenes)
    other = make(tmp_path / 'other', 1, make_scenes(seed=1))
    STORE.put(other.path, f'{tmp_path}/store/masks/round_0001',
              recursive=True)
    there = MaskBank.open(root, verify=True)
    assert there.round == 1 and there.hash == other.hash


def test_an_own_rank_fetches_nothing_it_wrote(root, cache, gets):
    bank = make(root, world_size=2)
    assert_holds(bank, make_scenes())
    assert gets == [] and len(copies(cache)) == 2
    forget(cache)
    MaskBank(bank.path).keys()
    assert sorted(gets) == sorted({b['file'] for b in bank.manifest['blocks']})


# -- Attempts --------------------------------------------------------------


def test_without_a_manifest_there_is_no_round(root):
    """A run that is killed after the upload; the next one succeeds."""
    write(root, 0, make_scenes(), world_size=2)
    assert len(objects(root)) == 4  # with what each rank has begun
    assert list_rounds(root) == []
    with pytest.raises(MissingFileError, match='No masks at memory:'):
        MaskBank.open(root)
    bank = make(root, 0, make_scenes())
    assert objects(root) == ['round_0000/manifest.json',
                             f'round_0000/{part_of(bank)}']


def test_a_round_is_there_until_it_is_replaced(root, cache):
    first, second = make_scenes(), make_scenes(seed=1)
    old = make(root, 0, first)
    groups, blocks = write(root, 0, second)
    forget(cache)
    assert_holds(MaskBank(old.path), first)
    unread, forked = MaskBank(old.path), MaskBank(old.path)
    forked.fetch()
    bank = publish_blocks(root, 0, groups.layout(), blocks, META)
    assert len(objects(root)) == 2
    assert_holds(bank, second)
    assert_holds(forked, first)  # it was here
    forget(cache)
    with pytest.raises(MissingFileError, match='open the round again'):
        unread.keys()
    assert_holds(MaskBank(old.path), second)


@pytest.mark.parametrize('act, safe', [
    (lambda root: make(root, 1, make_scenes(seed=2)), [0]),  # replaced
    (lambda root: prune_rounds(root, 1), [1]),
    (lambda root: set_aside(root, keep=[1]), [0, 1]),
], ids=['replace', 'prune', 'set aside'])
def test_kills_at_each_step(root, monkeypatch, act, safe):
    """Each round is whole in one place; what is left over is cleared."""
    for steps in range(60):
        STORE.store.clear()
        banks = [make(root, number, make_scenes(seed=number))
                 for number in range(2)]
        with monkeypatch.context() as patch:
            left = [steps]
            for name in ('pipe_file', 'put_file', 'cp_file', 'rm_file'):
                patch.setattr(MemoryFileSystem, name, dying(name, left))
            try:
                act(root)
            except SystemExit:
                pass
            else:
                break
        assert 1 in list_rounds(root)
        for number in list_rounds(root):
            assert len(MaskBank(round_path(root, number), verify=True)) == 12
        for number in safe:
            assert number in list_rounds(root) or find_aside(
                root, number, banks[number].hash)
        clear_leftovers(root)
        for folder in map(os.path.dirname, objects(root)):
            assert folder.startswith('earlier_') or (
                int(folder[-4:]) in list_rounds(root))
        act(root)
    else:
        raise AssertionError('it never came to its end')
    assert steps > 2


def dying(name, left):
    original = getattr(MemoryFileSystem, name)

    def step(self, *args, **kwargs):
        if not left[0]:
            raise SystemExit
        left[0] -= 1
        return original(self, *args, **kwargs)

    return step


def test_rounds_of_other_runs(root, tmp_path):
    banks = [make(root, number) for number in range(3)]
    STORE.pipe_file(f'{tmp_path}/store/masks/round_0001/notes.txt', b'mine')
    STORE.pipe_file(f'{tmp_path}/store/masks/round_0001/more/x', b'mine')
    assert prune_rounds(root, 2, keep=[0]) == []
    assert prune_rounds(root, 2) == [0]
    folder = set_aside(root, keep=[2])
    assert list_rounds(root) == [2] and list_rounds(folder) == [1]
    assert find_aside(root, 1, banks[1].hash) == folder
    assert find_aside(root, 1, 'other') is None
    assert_holds(MaskBank.open(folder, verify=True), make_scenes())
    assert set_aside(root, keep=[2]) is None
    clear_leftovers(root)
    assert f'{os.path.basename(folder)}/round_0001/notes.txt' in objects(root)


def test_a_rank_gives_up(root):
    clear_leftovers(root)
    assert not is_given_up(root, 0)
    give_up_round(root, 0)
    assert is_given_up(root, 0)
    far_banks._looked.clear()  # a rank of another machine
    assert is_given_up(root, 0)
    clear_leftovers(root)
    far_banks._looked.clear()
    assert not is_given_up(root, 0) and objects(root) == []


# -- What is wrong with an object ------------------------------------------


def spoil(path, how):
    content = STORE.cat_file(path)
    if how == 'missing':
        STORE.rm_file(path)
    elif how == 'truncated':
        STORE.pipe_file(path, content[:-8])
    else:
        STORE.pipe_file(path, b'x' * len(content))


@pytest.mark.parametrize('how, found', [
    ('missing', r'expected (\d+) bytes, found no file'),
    ('truncated', r'expected (\d+) bytes, found \d+'),
    ('altered', r'bytes 0 to \d+, is altered.*SHA-256 \w{64}, found \w{64}'),
])
def test_a_spoilt_object(root, cache, tmp_path, how, found):
    bank = make(root)
    size = sum(block['bytes'] for block in bank.manifest['blocks'])
    spoil(f'{tmp_path}/store/masks/round_0000/{part_of(bank)}', how)
    forget(cache)
    with pytest.raises(UserError) as error:
        MaskBank.open(root).fetch()
    text = str(error.value)
    match = re.search(f'{bank.path}: {part_of(bank)}.*{found}', text)
    assert match and 'generate_masks' in text and '--again' in text
    assert how == 'altered' or int(match[1]) == size
    assert copies(cache) == []  # nor a part of it


def test_a_spoilt_manifest(root, tmp_path):
    bank = make(root)
    path = f'{tmp_path}/store/masks/round_0000/manifest.json'
    STORE.pipe_file(path, STORE.cat_file(path)[:99])
    with pytest.raises(UserError, match='manifest.json is altered'):
        MaskBank.open(root)
    clear_leftovers(root)
    assert f'round_0000/{part_of(bank)}' in objects(root)  # to be mended


def test_a_spoilt_copy_is_fetched_again(root, cache, gets, monkeypatch):
    make(root)
    path, = copies(cache)
    path.write_bytes(b'x' * path.stat().st_size)
    said = []
    monkeypatch.setattr(far_banks, 'print_log',
                        lambda message, **_: said.append(message))
    assert_holds(MaskBank.open(root, verify=True), make_scenes())
    assert 'fetched again' in said[0] and len(gets) == 1


@pytest.mark.parametrize('fault', ['error', 'cut'])
def test_faults_that_pass(root, cache, monkeypatch, fault):
    make(root)
    forget(cache)
    left, get_file = [3], MemoryFileSystem.get_file

    def get(self, path, local, **more):
        if left[0] and fault == 'error':
            left[0] -= 1
            raise OSError('503 Slow Down')
        get_file(self, path, local, **more)
        if left[0]:
            left[0] -= 1
            os.truncate(local, 9)

    monkeypatch.setattr(MemoryFileSystem, 'get_file', get)
    assert_holds(MaskBank.open(root), make_scenes())
    left[0] = 9
    forget(cache)
    with pytest.raises(UserError, match='part_.*5 tries failed.*(503|9 of)'):
        MaskBank.open(root).fetch()


# -- The copies of a machine -----------------------------------------------


def test_processes_copy_a_file_once(root, cache, gets, monkeypatch):
    make(root, world_size=2)
    forget(cache)
    get_file = MemoryFileSystem.get_file

    def slowly(*args, **kwargs):
        time.sleep(0.05)
        get_file(*args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, 'get_file', slowly)
    threads = [threading.Thread(target=MaskBank.open(root).fetch)
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gets) == 2


def test_old_rounds_make_room(root, cache, gets, monkeypatch):
    banks = [make(root, number) for number in range(3)]
    size = banks[0].num_bytes
    forget(cache)
    monkeypatch.setenv('CYBORGS_CACHE_GB', str(2.5 * size / 1e9))
    for number in (0, 1, 0, 2, 0, 2):
        # the time of an earlier use; clocks of file systems are coarse
        for path in copies(cache):
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
        bank = MaskBank(round_path(root, number))
        bank.fetch()
        assert_holds(bank, make_scenes())
    assert gets == [part_of(bank) for bank in banks]  # 1 went, not 0
    assert len(copies(cache)) == 2
    monkeypatch.setenv('CYBORGS_CACHE_GB', str(0.9 * size / 1e9))
    with pytest.raises(UserError, match='has .* GB, but .*CYBORGS_CACHE_GB'):
        MaskBank(round_path(root, 1)).fetch()
    monkeypatch.setenv('CYBORGS_CACHE_GB', 'much')
    with pytest.raises(UserError, match="positive number, but is 'much'"):
        MaskBank(round_path(root, 1)).fetch()


def test_a_folder_for_the_copies(root, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('x')
    monkeypatch.setenv('CYBORGS_CACHE', str(tmp_path / 'file'))
    with pytest.raises(UserError, match='by CYBORGS_CACHE in the environment'):
        make(root)
    monkeypatch.delenv('CYBORGS_CACHE')
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'tmp'))
    (tmp_path / 'tmp').mkdir()
    assert_holds(make(root), make_scenes())
    folder, = (tmp_path / 'tmp').iterdir()
    assert folder.name == f'cyborgs_masks_{os.getuid()}'
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_full_disk_is_named(root, cache, monkeypatch):
    make(root)
    forget(cache)

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(MemoryFileSystem, 'get_file', full)
    with pytest.raises(UserError, match=f'part_.* cannot be copied to {cache}'
                       '.*No space left'):
        MaskBank.open(root).fetch()


# -- What is refused -------------------------------------------------------


def test_format_1_is_refused(root, tmp_path, photo_root):
    with pytest.raises(UserError, match='begin a run with format 2'):
        MaskUpdateHook(bank_root=root, bank_format=1)
    with pytest.raises(UserError, match='begin a run with format 2'):
        make_round(GridMasks(), images_of(photo_root), root, 0, 0,
                   bank_format=1)
    assert objects(root) == []
    old = make_round(GridMasks(), images_of(photo_root), str(tmp_path / 'm'),
                     0, 0, bank_format=1)
    STORE.put(old.path, f'{tmp_path}/store/masks/round_0000', recursive=True)
    with pytest.raises(UserError, match='copy the round there first'):
        MaskBank.open(root)
    clear_leftovers(root)
    assert len(objects(root)) == 5


def test_teachers_features_are_refused():
    with pytest.raises(UserError, match='teacher_features.bank_root'):
        TeacherFeaturesHook(bank_root='s3://bucket/teacher')


@pytest.mark.parametrize('url, found', [
    ('s3://me:geheim123@bucket/masks', 'environment'),
    ('s3://bucket/masks?token=geheim123', 'environment'),
    ('file:///geheim123', 'give the path alone'),
])
def test_urls_that_cannot_be(url, found):
    for use in (MaskBank.open, list_rounds, clear_leftovers,
                lambda url: MaskUpdateHook(bank_root=url),
                lambda url: BlockWriter(url, 0, bytes(16))):
        with pytest.raises(UserError, match=found) as error:
            use(url)
        assert 'geheim' not in str(error.value) or url.startswith('file')


# -- S3 --------------------------------------------------------------------


def test_s3(s3, tmp_path, cache):
    scenes, root = make_scenes(), 's3://bucket/runs/masks'
    near = make(tmp_path / 'near', 0, scenes)
    bank = make(root, 0, scenes, world_size=2)
    assert bank.hash == near.hash
    forget(cache)
    assert_holds(MaskBank.open(root), scenes)
    write(root, 1, scenes)
    assert list_rounds(root) == [0] and len(objects(root)) == 5
    make(root, 1, make_scenes(seed=1))
    make(root, 1, scenes)
    assert len(objects(root)) == 5
    assert prune_rounds(root, 1) == [0]
    folder = set_aside(root)
    assert list_rounds(root) == [] and list_rounds(folder) == [1]
    for path in Path(tmp_path).rglob('*'):
        assert path.is_dir() or b'geheim' not in path.read_bytes()
    with pytest.raises(UserError, match='s3://nobucket/.*written') as error:
        make('s3://nobucket/masks')
    assert 'geheim' not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize('faults', [[503], ['cut'], [500, 'cut', 503]])
def test_faults_of_s3(s3, cache, faults):
    s3[:] = faults
    scenes, root = make_scenes(), 's3://bucket/masks'
    bank = make(root, 0, scenes)
    s3[:] = faults
    forget(cache)
    assert_holds(MaskBank(bank.path), scenes)
    assert s3 == []


@pytest.mark.slow
def test_ranks_without_a_common_disk(s3, photo_root, tmp_path):
    """Each of two processes has a disk of its own, and reads all."""
    images, root = images_of(photo_root), 's3://bucket/masks'

    def work(rank):
        os.environ['CYBORGS_CACHE'] = str(tmp_path / f'disk{rank}')
        bank = make_round(GridMasks(), images, root, 0, 5, group_size=2)
        written = len(copies(tmp_path / f'disk{rank}' / 'cyborgs_masks'))
        bank.fetch()
        maps = [bank.label_map(key).tolist() for key, _ in images]
        (tmp_path / f'{rank}.json').write_text(json.dumps(
            [bank.hash, written, maps]))

    codes, logs = in_processes(2, work, tmp_path / 'log')
    assert codes == [0, 0], logs
    near = make_round(GridMasks(), images, str(tmp_path / 'near'), 0, 5,
                      group_size=2)
    for rank in range(2):
        found, written, maps = json.loads(
            (tmp_path / f'{rank}.json').read_text())
        assert found == near.hash and written == 1
        for (key, _), label_map in zip(images, maps, strict=True):
            np.testing.assert_array_equal(label_map, near.label_map(key))
        assert len(copies(tmp_path / f'disk{rank}' / 'cyborgs_masks')) == 2
