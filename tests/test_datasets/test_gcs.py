"""Tar files and mask rounds in Google's store, by an emulator of it."""
import os
import socket

import fsspec
import numpy as np
import pytest
from gcp_storage_emulator.server import create_server
from torch.utils.data import DataLoader

from cyborgs_plugin.datasets import (
    BrokenImageError,
    LoadSceneImage,
    SceneDataset,
    far_shards,
    read_image,
)
from cyborgs_plugin.datasets.index_making import index_shards
from cyborgs_plugin.datasets.mask_bank import (
    MaskBank,
    list_rounds,
    prune_rounds,
    set_aside,
)
from cyborgs_plugin.errors import UserError

from .test_far_shards import packed, trained_on  # noqa: F401
from .test_mask_blocks import assert_holds, make, make_scenes


@pytest.fixture(autouse=True)
def gcs(monkeypatch, tmp_path):
    """A server with the bucket 'bucket', to which the environment leads."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'http://localhost:{port}')
    # gcsfs otherwise asks by gRPC, which the emulator does not speak, whether
    # the bucket is one with folders
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    monkeypatch.setenv('CYBORGS_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(far_shards, '_PAUSE', 0.01)
    with create_server('localhost', port, in_memory=True,
                       default_bucket='bucket'):
        fsspec.get_filesystem_class('gs').clear_instance_cache()
        yield fsspec.filesystem('gs')


def test_tar_files(gcs, packed, tmp_path):  # noqa: F811
    for number, path in enumerate(packed):
        gcs.put(path, f'bucket/a/{number}.tar')
    found = far_shards.find_far('gs://bucket/a')
    assert [os.path.basename(url) for url in found] == ['0.tar', '1.tar']
    index = index_shards(found, str(tmp_path / 'i'))
    near = index_shards(packed, str(tmp_path / 'j'))
    assert index.fingerprint == near.fingerprint
    images = [read_image(near.photo(row)) for row in range(len(near))]
    data = SceneDataset(index=index.path, with_masks=False,
                        pipeline=[LoadSceneImage()])
    assert all(map(np.array_equal, trained_on(data), images))
    # in processes that are forked after this one has read
    loader = DataLoader(data, 5, num_workers=2, collate_fn=list)
    batches = [sample['img'] for batch in loader for sample in batch]
    assert all(map(np.array_equal, batches, images))
    whole = SceneDataset(
        index=index.path, with_masks=False, cache_tars=True,
        cache=str(tmp_path / 'kept'), pipeline=[LoadSceneImage()])
    assert all(map(np.array_equal, trained_on(whole), images))
    gcs.rm('bucket/a/0.tar')
    with pytest.raises(BrokenImageError, match='gs://bucket/a/0.tar'):
        for row in range(len(index)):
            read_image(index.photo(row))


def test_rounds(tmp_path):
    scenes, root = make_scenes(), 'gs://bucket/runs/masks'
    make(root, 0, scenes, world_size=2)
    bank = make(root, 1, scenes, world_size=2)
    assert bank.hash == make(tmp_path / 'near', 1, scenes).hash
    (tmp_path / 'cache').rename(tmp_path / 'lost')
    assert_holds(MaskBank.open(root, verify=True), scenes)
    prune_rounds(root, 1)
    assert list_rounds(root) == [1]
    set_aside(root)
    assert list_rounds(root) == []
    with pytest.raises(UserError, match='gs://nobucket/.*written'):
        make('gs://nobucket/masks')
