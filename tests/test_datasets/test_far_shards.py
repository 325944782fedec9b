"""Tar files of a store that fails, against the same files on the disk."""
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import diskcache
import fsspec
import numpy as np
import pytest
from torch.utils.data import DataLoader

from cyborgs_plugin.datasets import (
    BrokenImageError,
    LoadSceneImage,
    SceneDataset,
    SceneSampler,
    far_shards,
    read_image,
    scene_dataset,
)
from cyborgs_plugin.datasets.index_making import index_shards
from cyborgs_plugin.datasets.shards import parse_address
from cyborgs_plugin.errors import (
    MissingFileError,
    MissingPackageError,
    UserError,
)
from cyborgs_plugin.segmentation import GridMasks, make_round

from ..helpers import ROOT
from .test_shards import pack


class Store(BaseHTTPRequestHandler):
    """Serves a folder by http; ``faults`` come before the answers."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        server = self.server
        path = Path(f'{server.folder}{self.path}')
        asked = re.fullmatch(r'bytes=(\d+)-(\d+)',
                             self.headers.get('Range', ''))
        if body:
            server.asked.append((self.path, asked and asked.groups()))
        if body and server.together is not None:
            server.together.wait(10)
        fault = server.faults.pop(0) if body and server.faults else None
        if isinstance(fault, int) or not path.is_file():
            self.send_response(fault or 404)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        content, size = path.read_bytes(), path.stat().st_size
        if asked and server.ranges:
            first, last = map(int, asked.groups())
            last = min(last, size - 1)
            content = content[first:last + 1]
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {first}-{last}/{size}')
        else:
            self.send_response(200)
        if server.ranges:
            self.send_header('Accept-Ranges', 'bytes')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if body:
            if fault == 'cut':
                content = content[:len(content) // 2]
                self.close_connection = True
            self.wfile.write(content)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(far_shards, '_PAUSE', 0.01)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Store)
    server.folder, server.faults, server.asked = tmp_path, [], []
    server.ranges, server.together = True, None
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def packed(photo_root, tmp_path):
    names = sorted(os.listdir(photo_root / 'train2017'))
    os.mkdir(tmp_path / 'tars')
    return [
        pack(tmp_path / 'tars' / f'{number}.tar', [
            (name, (photo_root / 'train2017' / name).read_bytes())
            for name in names[number::2]]) for number in range(2)
    ]


def far(store, packed, tmp_path, **options):
    index_shards([f'{store.url}/tars/{number}.tar' for number in range(2)],
                 str(tmp_path / 'far.index'))
    store.asked.clear()
    return SceneDataset(index=str(tmp_path / 'far.index'), with_masks=False,
                        pipeline=[LoadSceneImage()], **options)


def test_the_same_as_on_the_disk(store, packed, tmp_path):
    data = far(store, packed, tmp_path)
    near = index_shards(packed, str(tmp_path / 'near.index'))
    assert data.fingerprint == near.fingerprint
    for row, (key, path) in enumerate(data.images()):
        assert key == near.key(row)
        assert (read_image(path) == read_image(near.photo(row))).all()
    assert len(store.asked) == 12  # one request each, of its own bytes
    for (_, asked), (_, path) in zip(store.asked, data.images()):
        place = parse_address(path)
        assert int(asked[1]) - int(asked[0]) + 1 == 512 + place.length


@pytest.mark.slow
def test_rounds_and_workers_read_from_a_store(store, packed, tmp_path):
    """In threads, and in forked processes after it was read from."""
    data = far(store, packed, tmp_path, cache=str(tmp_path / 'cache'))
    near = index_shards(packed, str(tmp_path / 'near.index'))
    banks = [
        make_round(GridMasks(), SceneDataset(index=path).images(),
                   str(tmp_path / 'm'), number, 0)
        for number, path in enumerate([str(tmp_path / 'far.index'),
                                       near.path])
    ]
    for key in banks[1].keys():
        assert (banks[0].label_map(key) == banks[1].label_map(key)).all()
    loader = DataLoader(data, num_workers=2, batch_size=None)
    images = [sample['img'] for sample in loader]
    for row, image in enumerate(images):
        assert (np.asarray(image) == read_image(near.photo(row))).all()


def test_a_batch_is_read_at_once(store, packed, tmp_path):
    """Each answer waits until all of the batch are asked for."""
    data = far(store, packed, tmp_path)
    alone = [data[index]['img'] for index in (3, 0, 5, 4)]
    store.together = threading.Barrier(4)
    batch = data.__getitems__([3, 0, 5, 4])
    store.together = None
    assert all(map(np.array_equal, alone, [one['img'] for one in batch]))
    assert not far_shards._AHEAD


def test_a_broken_one_of_a_batch(store, packed, tmp_path):
    """It is replaced and named, as if it had been read alone."""
    data = far(store, packed, tmp_path)
    said = []
    data._warn = said.append
    os.remove(packed[0])
    names = [address for _, address in data.images()]
    near = [row for row, name in enumerate(names) if '/1.tar::' in name]
    batch = data.__getitems__([*range(12), 3, 3])
    assert len(batch) == 14 and len(said) == 5
    assert all('replaces a broken one' in line for line in said)
    own = [data[row]['img'] for row in near]
    for row, sample in enumerate(batch[:12]):
        assert any(np.array_equal(sample['img'], one) for one in own)
        if row in near:
            assert np.array_equal(sample['img'], own[near.index(row)])


LOADS = """
import signal, sys
# a process in the background ignores it
signal.signal(signal.SIGINT, signal.default_int_handler)
from cyborgs_plugin.datasets import LoadSceneImage, SceneDataset
SceneDataset(index=sys.argv[1], with_masks=False,
             pipeline=[LoadSceneImage()]).__getitems__([*range(12)])
"""


@pytest.mark.slow
def test_an_interrupt_does_not_wait_for_the_store(store, packed, tmp_path):
    """The end of a process waits for no thread that reads."""
    far(store, packed, tmp_path)
    answers = threading.Event()
    store.together = SimpleNamespace(wait=lambda _: answers.wait(100))
    process = subprocess.Popen(
        [sys.executable, '-c', LOADS, str(tmp_path / 'far.index')],
        env=dict(os.environ, PYTHONPATH=ROOT), stderr=subprocess.PIPE,
        text=True)
    try:
        while len(store.asked) < 12 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=40)
        assert said.rstrip().endswith('KeyboardInterrupt')
    finally:
        process.kill()
        answers.set()


def test_large_batches_are_read_in_parts(store, packed, tmp_path, monkeypatch):
    """So that memory holds few files ahead."""
    monkeypatch.setattr(scene_dataset, '_AHEAD', 5)
    data = far(store, packed, tmp_path)
    begun = []
    reading_ahead = scene_dataset.reading_ahead
    monkeypatch.setattr(
        scene_dataset, 'reading_ahead', lambda places, **options: (
            begun.append(len(places)), reading_ahead(places, **options))[1])
    assert len(data.__getitems__([*range(12)])) == 12
    assert begun == [5, 5, 2] and len(store.asked) == 12


def test_what_a_cache_keeps_is_not_read_ahead(store, packed, tmp_path,
                                              monkeypatch):
    data = far(store, packed, tmp_path, cache=str(tmp_path / 'kept'))
    first = data.__getitems__([0, 5])
    begun, begin = [], far_shards.begin
    monkeypatch.setattr(far_shards, 'begin', lambda work: (
        begun.append(work), begin(work))[1])
    again = data.__getitems__([5, 7, 0])
    assert len(begun) == 1 and len(store.asked) == 3
    for one, two in ((0, 2), (1, 0)):
        assert np.array_equal(first[one]['img'], again[two]['img'])


@pytest.mark.parametrize('faults', [[503], [500, 503, 'cut', 429],
                                    ['cut', 'cut']])
def test_faults_that_pass(store, packed, tmp_path, faults):
    data = far(store, packed, tmp_path)
    _, path = data.images()[3]
    store.faults[:] = faults
    index = index_shards(packed, str(tmp_path / 'near.index'))
    assert (read_image(path) == read_image(index.photo(3))).all()
    assert len(store.asked) == 1 + len(faults)
    store.faults[:] = faults
    assert index_shards([f'{store.url}/tars/0.tar', f'{store.url}/tars/1.tar'],
                        str(tmp_path / 'again')).fingerprint == (
                            index.fingerprint)


@pytest.mark.parametrize('spoil, tries, found', [
    (lambda store, path: store.faults.extend([503] * 9), 5,
     '5 tries failed, the last with .*503'),
    (lambda store, path: store.faults.extend(['cut'] * 9), 5,
     '5 tries failed, the last with .*Payload'),
    (lambda store, path: os.remove(path), 1, '0.tar'),
    (lambda store, path: os.truncate(path, 700), 5,
     'the tar file is truncated: expected .* bytes at 0, found 700'),
    (lambda store, path: path.write_bytes(b'x' * 99999), 1,
     'no member of a tar file begins at 0'),
])
def test_faults_that_stay(store, packed, tmp_path, spoil, tries, found):
    """A broken image, named with its tar file and its place in it."""
    data = far(store, packed, tmp_path)
    said = []
    data._warn = said.append
    spoil(store, tmp_path / 'tars' / '0.tar')
    assert data.prepare_data(0) is None
    assert re.search(rf'replaces a broken one: {store.url}/tars/0.tar::00.png@'
                     rf'512\+.*{found}', said[0]), said
    assert len(store.asked) == tries


def test_a_server_without_ranges_is_refused(store, packed, tmp_path):
    data = far(store, packed, tmp_path)
    store.ranges = False
    with pytest.raises(UserError, match='must support range requests'):
        data.prepare_data(0)


def test_what_cannot_be_indexed(store, packed, tmp_path):
    def index(*urls):
        return index_shards([f'{store.url}/{url}' for url in urls],
                            str(tmp_path / 'i'))

    with pytest.raises(MissingFileError, match='none.tar does not exist'):
        index('tars/0.tar', 'none.tar')
    store.faults[:] = [503] * 9
    with pytest.raises(UserError, match='0.tar cannot be read: .*5 tries'):
        index('tars/0.tar')
    store.faults[:] = []
    os.truncate(packed[0], 1500)
    with pytest.raises(UserError, match='0.tar: no tar file, or a truncated'):
        index('tars/0.tar')
    with pytest.raises(UserError, match="no://x/0.tar"):
        index_shards(['no://x/0.tar'], str(tmp_path / 'i'))
    assert not (tmp_path / 'i').exists()


def test_no_credentials_are_kept_or_told(store, packed, tmp_path,
                                         monkeypatch):
    for url in ('http://me:geheim123@host/0.tar', 's3://b/0.tar?sig=geheim123',
                'http://geheim123@host/0.tar'):
        for use in (lambda url: index_shards([url], str(tmp_path / 'i')),
                    far_shards.find_far):
            with pytest.raises(UserError, match='environment') as error:
                use(url)
            assert 'geheim' not in str(error.value)
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'geheim123')

    def fails(*args, **kwargs):
        raise OSError('signed with geheim123')

    data = far(store, packed, tmp_path)
    monkeypatch.setattr(
        far_shards, 'file_system',
        lambda url: (SimpleNamespace(cat_file=fails, open=fails), url))
    with pytest.raises(BrokenImageError, match=r'signed with \*\*\*'):
        read_image(data.images()[0][1])
    with pytest.raises(UserError, match=r'signed with \*\*\*'):
        far(store, packed, tmp_path)


def test_a_package_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 's3fs', None)
    known = sys.modules['fsspec.registry']._registry
    monkeypatch.delitem(known, 's3', raising=False)  # of another test
    with pytest.raises(MissingPackageError, match='pip install s3fs'):
        index_shards(['s3://bucket/0.tar'], str(tmp_path / 'i'))
    monkeypatch.setitem(sys.modules, 'diskcache', None)
    with pytest.raises(MissingPackageError, match='pip install diskcache'):
        SceneDataset(data_prefix='x', cache=str(tmp_path / 'c'))


def test_a_cache_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('x')
    for options, found in [
            (dict(cache=str(tmp_path / 'file')), 'cannot be used'),
            (dict(cache=str(tmp_path / 'c'), cache_gb=0), 'be a positive')]:
        with pytest.raises(UserError, match=found):
            SceneDataset(data_prefix='x', **options)


def test_all_tar_files_below_a_url(packed, tmp_path):
    files = fsspec.filesystem('memory')
    for number, path in enumerate(packed):
        files.put(path, f'/bucket/{number}/x.tar')
    files.pipe('/bucket/notes.txt', b'x')
    found = far_shards.find_far('memory://bucket')
    assert [url.rpartition('bucket')[2] for url in found] == [
        '/0/x.tar', '/1/x.tar']
    index = index_shards(found, str(tmp_path / 'i'))
    assert index.fingerprint == index_shards(
        packed, str(tmp_path / 'j')).fingerprint
    assert read_image(index.photo(0)).ndim == 3
    assert index.shards == ['0/x.tar', '1/x.tar']


def test_a_cache_serves_all_processes(store, packed, tmp_path):
    options = dict(cache=str(tmp_path / 'cache'), cache_gb=1)
    data = far(store, packed, tmp_path, **options)
    first = [read_image(path, **data.read_args) for _, path in data.images()]
    assert len(store.asked) == 12
    far_shards._opened.cache_clear()  # as another process
    shutil.rmtree(tmp_path / 'tars')
    again = [read_image(path, **data.read_args) for _, path in data.images()]
    assert len(store.asked) == 12
    assert all(map(np.array_equal, first, again))


def test_a_cache_keeps_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(far_shards, '_read', lambda place: b'x' * 100_000)
    read = partial(far_shards.read_far, cache=str(tmp_path / 'c'),
                   cache_gb=0.01)
    for start in range(400):  # 40 MB, for 10
        read(parse_address(f's3://b/0.tar::x@{start}+100000'))
    size = sum(path.stat().st_size for path in (tmp_path / 'c').rglob('*.val'))
    assert 1e6 < size < 1.2e7


def test_a_full_disk_costs_only_time(tmp_path, monkeypatch):
    monkeypatch.setattr(far_shards, '_read', lambda place: b'x')
    told = []
    monkeypatch.setattr(far_shards, 'print_log',
                        lambda message, **_: told.append(message))

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(diskcache.FanoutCache, 'set', full)
    place = parse_address('s3://b/0.tar::x@512+1')
    for _ in range(3):
        assert far_shards.read_far(place, str(tmp_path / 'c')) == b'x'
    assert len(told) == 1 and 'No space left' in told[0]


def keeping(store, packed, tmp_path, **options):
    """A data set that keeps whole tar files, and what it should give."""
    near = index_shards(packed, str(tmp_path / 'near.index'))
    data = far(store, packed, tmp_path, cache=str(tmp_path / 'kept'),
               cache_tars=True, **options)
    return data, [read_image(near.photo(row)) for row in range(len(near))]


def trained_on(data, order=None):
    """Images as the pipeline gets them."""
    return [np.asarray(data.prepare_data(row)['img'])
            for row in order or range(len(data))]


def test_whole_tar_files_are_fetched_once(store, packed, tmp_path):
    data, images = keeping(store, packed, tmp_path)
    # A mask round, which goes by names, fetches none.
    for (_, path), image in zip(data.images(), images):
        assert (read_image(path, **data.read_args) == image).all()
    assert len(store.asked) == 12 and all(asked for _, asked in store.asked)
    store.asked.clear()
    store.faults[:] = ['cut', 503]
    assert all(map(np.array_equal, trained_on(data), images))
    assert sorted(store.asked) == [('/tars/0.tar', None)] * 3 + [
        ('/tars/1.tar', None)]
    shutil.rmtree(tmp_path / 'tars')
    assert all(map(np.array_equal, trained_on(data), images))
    for (_, path), image in zip(data.images(), images):
        assert (read_image(path, **data.read_args) == image).all()
    assert len(store.asked) == 4
    assert sorted(path.suffix for path in (tmp_path / 'kept').iterdir()) == [
        '', '.lock', '.lock', '.tar', '.tar']


def test_processes_fetch_each_tar_file_once(store, packed, tmp_path):
    data, images = keeping(store, packed, tmp_path)
    loader = DataLoader(data, num_workers=2, batch_size=None)
    assert all(map(np.array_equal, (np.asarray(sample['img'])
                                    for sample in loader), images))
    assert sorted(path for path, _ in store.asked) == [
        '/tars/0.tar', '/tars/1.tar']


def test_tar_files_are_dropped_where_there_is_no_room(store, packed, tmp_path,
                                                      monkeypatch):
    size = os.path.getsize(packed[0])
    data, images = keeping(store, packed, tmp_path, cache_gb=1.5 * size / 1e9)
    order = [0, 2, 4, 1, 3, 5, 6]  # by two tar files in turn
    assert all(map(np.array_equal, trained_on(data, order),
                   [images[row] for row in order]))
    assert [path for path, _ in store.asked] == [
        f'/tars/{number}.tar' for number in (0, 1, 0)]
    assert len(list((tmp_path / 'kept').glob('*.tar'))) == 1
    # and if the disk is full, one by one
    shutil.rmtree(tmp_path / 'kept')
    data = keeping(store, packed, tmp_path)[0]
    told = []
    monkeypatch.setattr(far_shards, 'print_log',
                        lambda message, **_: told.append(message))

    def full(*args):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', full)
        assert all(map(np.array_equal, trained_on(data), images))
    assert len(told) == 1 and 'has no room for whole tar files' in told[0]
    assert not list((tmp_path / 'kept').glob('*.tar*'))


def test_tar_files_that_cannot_be_kept(store, packed, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='cache_tars=True keeps.*by cache'):
        SceneDataset(data_prefix='x', cache_tars=True)
    for options, found in [
            (dict(cache=packed[0]), 'cannot be used'),
            (dict(cache=str(tmp_path / 'c'), cache_gb=0), 'be a positive')]:
        with pytest.raises(UserError, match=found):
            SceneDataset(data_prefix='x', cache_tars=True, **options)
    data, _ = keeping(store, packed, tmp_path)
    with pytest.raises(UserError, match='cache_tars=True.*set .*window'):
        SceneSampler(data)
    SceneSampler(data, window=9)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    data.cache_gb = 5 * os.path.getsize(packed[0]) / 1e9
    SceneSampler(data, window=1)
    with pytest.raises(UserError, match='window=2 reads from 2 tar files at a '
                       'time in each of 3 proc.* GB on average.*cache_gb=.*'):
        SceneSampler(data, window=2)
    os.remove(packed[1])
    data._warn = lambda message: None
    assert data.prepare_data(1) is None  # a broken image


def test_s3(s3, packed, tmp_path, monkeypatch):
    """With the credentials of the environment, against a server of moto."""
    monkeypatch.setattr(far_shards, '_PAUSE', 0.01)
    files = fsspec.filesystem('s3')
    for number, path in enumerate(packed):
        files.put(path, f'bucket/a/{number}.tar')
    found = far_shards.find_far('s3://bucket/a')
    assert found == [f's3://bucket/a/{n}.tar' for n in range(2)]
    index = index_shards(found, str(tmp_path / 'i'))
    near = index_shards(packed, str(tmp_path / 'j'))
    assert index.fingerprint == near.fingerprint
    for row in range(12):
        assert (read_image(index.photo(row)) == read_image(
            near.photo(row))).all()
    # in processes that are forked after this one has read
    plain = SceneDataset(index=str(tmp_path / 'i'), with_masks=False,
                         pipeline=[LoadSceneImage()])
    plain.__getitems__([3, 4])
    batches = DataLoader(plain, 5, num_workers=2, collate_fn=list)
    for row, sample in enumerate(sum(batches, [])):
        assert (sample['img'] == read_image(near.photo(row))).all()
    data = SceneDataset(
        index=str(tmp_path / 'i'), with_masks=False, cache_tars=True,
        cache=str(tmp_path / 'kept'), pipeline=[LoadSceneImage()])
    assert (trained_on(data, [5])[0] == read_image(near.photo(5))).all()
    kept, = (tmp_path / 'kept').glob('*.tar')
    assert kept.read_bytes() == open(packed[1], 'rb').read()
    for path in (tmp_path / 'i').iterdir():
        assert b'geheim' not in path.read_bytes()
    files.rm('bucket/a/1.tar')
    with pytest.raises(BrokenImageError, match='1.tar::01.png.*not exist'):
        read_image(index.photo(1))
    with pytest.raises(UserError, match='nobucket') as error:
        far_shards.find_far('s3://nobucket/a')
    assert 'geheim' not in str(error.value)


def signed(s3, packed, tmp_path, monkeypatch):
    """An index of S3, whose bytes s3fs does not read."""
    monkeypatch.setattr(far_shards, '_PAUSE', 0.01)
    monkeypatch.setattr('tests.s3_server.FAILS', 'Signature')
    files = fsspec.filesystem('s3')
    files.put(packed[0], 'bucket/0.tar')
    index = index_shards(['s3://bucket/0.tar'], str(tmp_path / 'i'))
    read, own = [], files.cat_file
    monkeypatch.setattr(files, 'cat_file', lambda path, **span: (
        read.append(path), own(path, **span))[1])
    near = index_shards(packed[:1], str(tmp_path / 'j'))
    return index.photo(0), read_image(near.photo(0)), read


@pytest.mark.parametrize('faults, by_s3fs', [
    ([], 0), ([503, 'cut', 429, 500], 0), ([403], 1), ([301], 1), ([404], 1)])
def test_signed_urls(s3, packed, tmp_path, monkeypatch, faults, by_s3fs):
    """Faults are tried again; a refused signature is left to s3fs."""
    path, image, read = signed(s3, packed, tmp_path, monkeypatch)
    s3[:] = faults
    assert (read_image(path) == image).all()
    assert not s3 and len(read) == by_s3fs
    assert (read_image(path) == image).all()
    # a refusal of the signature holds for the bucket
    assert len(read) == (2 if faults in ([403], [301]) else by_s3fs)


def test_a_signature_is_not_told(s3, packed, tmp_path, monkeypatch):
    path, _, read = signed(s3, packed, tmp_path, monkeypatch)
    for faults in ([503] * 5, ['cut'] * 5):
        s3[:] = faults
        with pytest.raises(BrokenImageError, match='5 tries') as error:
            read_image(path)
        assert 'ignature' not in str(error.value) and not read


def test_a_missing_object_of_s3(s3, packed, tmp_path, monkeypatch):
    path, _, read = signed(s3, packed, tmp_path, monkeypatch)
    fsspec.filesystem('s3').rm('bucket/0.tar')
    with pytest.raises(BrokenImageError, match='0.tar'):
        read_image(path)
    assert len(read) == 1  # not tried again
