"""One process of a machine lists; the others have the same list."""
import os
import pickle
import tempfile
import time

import pytest

from cyborgs_plugin.datasets import SceneDataset, node_listing, scene_dataset
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.segmentation.ranks import together

from ..helpers import in_processes


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The temporary folder of the processes."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'tmp'))
    os.mkdir(tmp_path / 'tmp')
    return tmp_path / 'tmp'


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """The processes that have listed a folder."""
    find = scene_dataset.find_files

    def noted(folder, **options):
        with open(tmp_path / 'listed', 'a') as file:
            file.write(f'{os.getpid()}\n')
        time.sleep(0.5)  # the other comes before it has ended
        return find(folder, **options)

    monkeypatch.setattr(scene_dataset, 'find_files', noted)
    return lambda: (tmp_path / 'listed').read_text().split()


def left(shared):
    return [name for _, folders, files in os.walk(shared)
            for name in [*folders, *files] if 'cyborgs_photo' not in name]


def folder_of(photo_root):
    return SceneDataset(data_root=str(photo_root),
                        data_prefix=dict(img_path='train2017/'))


def lists(photo_root):
    def work(rank):
        assert len(folder_of(photo_root)) == 12
        together(lambda: None)  # rank 0 keeps the store

    return work


def test_one_lists(photo_root, tmp_path, shared, counted):
    every = list(folder_of(photo_root).images())

    def work(rank):
        data = folder_of(photo_root)
        assert list(data.images()) == every
        assert not data.data_bytes.flags.writeable
        copy = pickle.loads(pickle.dumps(data))  # as for a spawned worker
        assert list(copy.images()) == every
        part = SceneDataset(data_prefix=str(photo_root), indices=[3, 1])
        assert [key for key, _ in part.images()] == [
            every[3][0], every[1][0]]
        together(lambda: None)  # rank 0 keeps the store
        node_listing._leave()

    codes, logs = in_processes(2, work, tmp_path / 'log', 30)
    assert codes == [0, 0], logs
    assert len(counted()) == 3  # one here, one for each data set there
    assert left(shared) == []


def test_an_error_is_raised_on_all(tmp_path, shared, counted):
    (tmp_path / 'empty').mkdir()

    def work(rank):
        with pytest.raises(UserError, match='No image in'):
            SceneDataset(data_prefix=str(tmp_path / 'empty'))
        together(lambda: None)

    codes, logs = in_processes(2, work, tmp_path / 'log', 30)
    assert codes == [0, 0], logs


def test_a_lister_that_dies_is_replaced(photo_root, tmp_path, shared,
                                        monkeypatch):
    find = scene_dataset.find_files

    def dies(folder, **options):
        try:
            os.mkdir(tmp_path / 'first')
        except FileExistsError:
            return find(folder, **options)
        time.sleep(0.5)
        os._exit(9)

    monkeypatch.setattr(scene_dataset, 'find_files', dies)

    def work(rank):
        if rank == 0:  # it keeps the store, and must live
            time.sleep(2)
        assert len(folder_of(photo_root)) == 12

    codes, logs = in_processes(3, work, tmp_path / 'log', 30)
    assert sorted(codes) == [0, 0, 9], logs


def test_a_killed_run_leaves_nothing_to_the_next(photo_root, tmp_path,
                                                 shared):
    for _ in range(2):  # whose processes end without _leave()
        codes, logs = in_processes(
            2, lists(photo_root), tmp_path / 'log', 30)
        assert codes == [0, 0], logs
        assert len([name for name in left(shared) if '.used' in name]) == 1


def test_without_room_each_lists(photo_root, tmp_path, shared, counted):
    os.mkdir(shared / f'cyborgs_photographs_{os.getuid()}', 0o777)
    os.chmod(shared / f'cyborgs_photographs_{os.getuid()}', 0o777)
    codes, logs = in_processes(
        2, lists(photo_root), tmp_path / 'log', 30)
    assert codes == [0, 0], logs
    assert len(counted()) == 2
    assert 'is open to other users' in ''.join(logs)
