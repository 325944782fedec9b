"""Windows of tar files in runs that are resumed, and refused."""
import shutil

import pytest
from mmengine.config import Config

from cyborgs_plugin.datasets import SceneDataset
from cyborgs_plugin.datasets.index_making import index_shards
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT, small_run, write_photo
from ..test_datasets.test_scene_sampler import naive_order
from ..test_datasets.test_shards import pack
from . import test_kills as kills
from .test_epoch_seed_hook import (
    WITHIN,
    check_equal_within,
    copied_within,
)
from .test_preemption_hook import SignalHook, check_equal, preempted

FILES = [0, 1, 2, 3, 4, 4, 0, 1, 2, 3, 2, 3]  # of photographs by name


def packed(folder, files=FILES):
    """The index of 12 photographs in 5 tar files."""
    members = {}
    for number, file in enumerate(files):
        photo = folder / 'photos' / f'{number:02d}.png'
        write_photo(photo, seed=number)
        members.setdefault(file, []).append((photo.name, photo.read_bytes()))
    shards = [pack(folder / f'{file}.tar', members[file])
              for file in sorted(members)]
    index_shards(shards, str(folder / 'photos.index'))
    return folder


def options_of(data, **options):
    return {'train_dataloader.dataset.index': str(data / 'photos.index'),
            'train_dataloader.dataset.ann_file': '',
            'train_dataloader.batch_size': 3,
            'train_dataloader.sampler.window': 2,
            'train_cfg.max_epochs': 2,
            'default_hooks.checkpoint.interval': 2, **options}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return packed(tmp_path_factory.mktemp('tars'))


@pytest.fixture
def loaded(monkeypatch):
    """Images in the order in which training loads them."""
    found, prepare = [], SceneDataset.prepare_data
    monkeypatch.setattr(
        SceneDataset, 'prepare_data',
        lambda self, index: (found.append(index), prepare(self, index))[1])
    return found


@pytest.mark.slow
def test_a_signal_in_the_middle_of_an_epoch(data, tmp_path, loaded):
    options = options_of(data)
    small_run(data, tmp_path / 'w', **options).train()
    whole = loaded[:]
    assert whole == [image for epoch in (0, 1)
                     for image in naive_order(FILES, 2, 1, 0, epoch)]
    del loaded[:]
    copy = tmp_path / 'x'
    runner = small_run(data, copy, **options)
    runner.register_hook(SignalHook(5))
    assert preempted(runner) == 75
    assert loaded == whole[:18]
    # with another window, nothing is trained
    for window, said in ((1, 'is 1, but was 2'), (None, 'is None, but was')):
        runner = small_run(data, copy, resume=True, **{
            **options, 'train_dataloader.sampler.window': window})
        with pytest.raises(UserError, match=f'within epoch 2, .*{said}'):
            runner.train()
    assert loaded == whole[:18]
    small_run(data, copy, resume=True, **options).train()
    assert loaded == whole
    check_equal(tmp_path / 'w', copy)


@pytest.mark.slow
def test_two_processes_and_one_in_their_place(data, tmp_path, loaded):
    """The same bits by two; by one, the images that remain of two parts."""
    options = options_of(data, **{**WITHIN, 'train_dataloader.batch_size': 2})
    codes, logs = kills.run(data, tmp_path / 'w', 2, world_size=2, **options)
    assert codes == [0, 0], logs[0][-3000:]
    for name in 'xy':
        copied_within(tmp_path / 'w', tmp_path / name, 2, 6)
    codes, logs = kills.run(data, tmp_path / 'x', 2, world_size=2, **options)
    assert codes == [0, 0], logs[0][-3000:]
    assert '8 of its images were seen, 1 of 3 batches remain' in logs[0]
    check_equal_within(tmp_path / 'w', tmp_path / 'x', 6)
    small_run(data, tmp_path / 'y', resume=True, **options).train()
    orders = (naive_order(FILES, 2, streams, 0, epoch)
              for epoch, streams in ((0, 2), (1, 1)))
    assert loaded == [*next(orders)[8:], *next(orders)]


@pytest.mark.slow
def test_other_settings_between_two_epochs(data, tmp_path, loaded, capsys):
    options = options_of(data, **{'default_hooks.checkpoint.interval': 1})

    copies = (tmp_path / f'copy{number}' for number in range(3))

    def resumed(root, **more):
        # another each time: mmengine's visualizer knows runs by the second
        copy = shutil.copytree(tmp_path / 'w', next(copies))
        del loaded[:]
        capsys.readouterr()
        small_run(root, copy, resume=True, **{
            **options_of(root), **more}).train()
        return capsys.readouterr().out

    small_run(data, tmp_path / 'w', **{
        **options, 'train_cfg.max_epochs': 1}).train()
    said = resumed(data, **{'train_dataloader.sampler.window': 1})
    assert 'sampler.window is 1, but was 2: the order of the images' in said
    assert loaded == naive_order(FILES, 1, 1, 0, 1)
    assert 'the order of the images' not in resumed(data)
    # the same photographs in other tar files
    (tmp_path / 'data').mkdir()
    files = FILES[::-1]
    said = resumed(packed(tmp_path / 'data', files))
    assert 'the images lie in other tar files than before: the o' in said
    assert loaded == naive_order(files, 2, 1, 0, 1)


def test_photographs_on_the_device_are_refused(data, tmp_path):
    runner = small_run(data, tmp_path / 'w', **options_of(data, **{
        'default_hooks.device_data': dict(type='DeviceDataHook')}))
    with pytest.raises(UserError, match='sampler.window reads from few tar '
                       'files.*data_on_device=True.*leave out one'):
        runner.train()


def test_the_config_changes_one_key():
    expected = Config.fromfile(f'{ROOT}/configs/cyborgs_coco.py')
    assert 'window' not in expected.train_dataloader.sampler
    expected.train_dataloader.sampler.window = 8
    assert Config.fromfile(
        f'{ROOT}/configs/ablations/order_window8.py'
    ).to_dict() == expected.to_dict()
