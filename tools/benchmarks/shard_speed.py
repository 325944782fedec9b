"""Images a second from tar files, near and far, against a folder.

Run: python tools/benchmarks/shard_speed.py --data-root FOLDER

Packs photographs into tar files, and puts them on a server of moto, which
speaks S3, in a process of its own; each of its answers is held up by
--latency-ms. Data loaders with the recipe's two views (without masks) read the
folder, the tar files on the disk, those of the server, and those of the server
by a cache, at first empty and then full. The processes that load share the
cores with the server, which a real one would not do: the row "waits" has the
part of their time in which the loaders did nothing. See docs/scaling.md.
"""
import argparse
import multiprocessing
import os
import os.path as osp
import socket
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is loaded

import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import pseudo_collate  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from cyborgs_plugin.arguments import at_least  # noqa: E402
from cyborgs_plugin.datasets import SceneDataset  # noqa: E402
from cyborgs_plugin.datasets.image_files import list_images  # noqa: E402
from cyborgs_plugin.datasets.index_making import index_shards  # noqa: E402
from cyborgs_plugin.errors import reported  # noqa: E402

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CONFIG = osp.join(ROOT, 'configs', 'cyborgs_in_step.py')
_KEYS = dict(AWS_ACCESS_KEY_ID='test', AWS_SECRET_ACCESS_KEY='test')
_BUCKET = 'photographs'


def serve(port: int, latency: float) -> None:
    """Answer as S3 does, each time a bit later."""
    import logging

    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        create_backend_app,
    )
    from werkzeug.serving import run_simple
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    answer = DomainDispatcherApplication(create_backend_app)

    def late(environ: Any, start: Callable) -> Iterable[bytes]:
        time.sleep(latency)
        return answer(environ, start)

    run_simple('127.0.0.1', port, late, threaded=True)


@contextmanager
def server(latency: float) -> Iterator[None]:
    """A server in a process of its own, to which the environment leads."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    process = multiprocessing.get_context('spawn').Process(
        target=serve, args=(port, latency), daemon=True)
    os.environ.update(_KEYS, AWS_ENDPOINT_URL=f'http://127.0.0.1:{port}')
    process.start()
    try:
        while process.is_alive():
            try:
                socket.create_connection(('127.0.0.1', port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        process.kill()


def pack(paths: list[str], folder: str, number: int) -> list[str]:
    """Write photographs to a number of tar files."""
    packed = []
    for shard in range(number):
        packed.append(osp.join(folder, f'{shard}.tar'))
        with tarfile.open(packed[-1], 'w') as tar:
            for path in paths[shard::number]:
                tar.add(path, osp.basename(path))
    return packed


def upload(packed: list[str]) -> list[str]:
    """Put tar files on the server."""
    import fsspec
    store = fsspec.filesystem('s3')
    store.mkdir(_BUCKET)
    for path in packed:
        store.put(path, f'{_BUCKET}/{osp.basename(path)}')
    return [f's3://{_BUCKET}/{osp.basename(path)}' for path in packed]


def rate(data: SceneDataset, workers: int, batch: int) -> tuple[float, float]:
    """Images a second, and the part of the time that workers wait.

    Args:
        data (SceneDataset): The data.
        workers (int): Processes that load.
        batch (int): Images that each of them loads at a time.
    """
    loader: Any = DataLoader(
        data, batch, shuffle=True, num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(0))
    steps = iter(loader)
    next(steps)  # the workers have started
    begun, count, busy = time.perf_counter(), 0, 0.
    for own in steps:
        count += len(own)
        busy += sum(own)
    seconds = time.perf_counter() - begun
    return count / seconds, 1 - busy / (seconds * workers)


def collate(samples: list[dict]) -> list[float]:
    """Seconds of CPU time of each sample, in place of the sample."""
    pseudo_collate(samples)
    spent = time.process_time() - _Clock.last
    _Clock.last = time.process_time()
    return [spent / len(samples)] * len(samples)


class _Clock:
    last = 0.


@reported()
def main() -> None:
    """Print a row for each place and number of workers."""
    parser = argparse.ArgumentParser(
        description='Images a second from tar files, near and far')
    parser.add_argument('--data-root', required=True, help='photographs')
    parser.add_argument(
        '--num-images', type=at_least(16), default=512,
        help='(default: %(default)s)')
    parser.add_argument(
        '--shards', type=at_least(1), default=4,
        help='tar files (default: %(default)s)')
    parser.add_argument(
        '--workers', type=at_least(1), nargs='+', default=[1, 2, 8],
        help='processes that load (default: 1 2 8)')
    parser.add_argument(
        '--batch-size', type=at_least(1), default=8,
        help='(default: %(default)s)')
    parser.add_argument(
        '--latency-ms', type=float, default=20.,
        help='by which the server is late (default: %(default)s)')
    args = parser.parse_args()
    paths = list_images(args.data_root)[:args.num_images]
    pipeline = Config.fromfile(CONFIG).train_dataloader.dataset.pipeline

    with tempfile.TemporaryDirectory() as folder, server(
            args.latency_ms / 1000), DefaultScope.overwrite_default_scope(
                'mmpretrain'):
        packed = pack(paths, folder, args.shards)
        near, far = (osp.join(folder, name) for name in ('near', 'far'))
        index_shards(packed, near)
        index_shards(upload(packed), far)

        def data(**options: Any) -> SceneDataset:
            return SceneDataset(pipeline=pipeline, with_masks=False,
                                **options)

        print(f'{len(paths)} photographs, {args.shards} tar files, answers '
              f'after {args.latency_ms:g} ms, batches of {args.batch_size}')
        print('| place | workers | images/s | of the folder | workers wait |'
              '\n|---|---|---|---|---|')
        for workers in args.workers:
            cache = dict(cache=osp.join(folder, f'cache{workers}'))
            rows = {
                'folder': data(data_prefix=args.data_root,
                               indices=len(paths)),
                'tar files, disk': data(index=near),
                'tar files, server': data(index=far),
                'the same, empty cache': data(index=far, **cache),
                'the same, full cache': data(index=far, **cache),
            }
            for place, scenes in rows.items():
                found, waits = rate(scenes, workers, args.batch_size)
                if place == 'folder':
                    best = found
                print(f'| {place} | {workers} | {found:.1f} | '
                      f'{found / best:.2f} | {waits:.0%} |', flush=True)


if __name__ == '__main__':
    main()
