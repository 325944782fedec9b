"""Time the mask update against the published procedure, on a CPU.

Run: python tools/benchmarks/mask_update_speed.py --data-root FOLDER

Both work on the same groups of images, group by group in turn, with the same
number of threads and the same network. What is published (the whole backbone,
one image at a time; faiss k-means of all points; an int64 .npy at full
resolution) is written afresh here and given the benefit of the doubt:
images are decoded once, one hook is registered, unit vectors go to faiss
without a copy. Ours is ``make_round`` as the hook calls it, with all that it
takes to publish a round of each group. The weights are random unless
--checkpoint is given. See docs/mask_update.md.
"""
import argparse
import logging
import os
import os.path as osp
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any
from unittest import mock


def name_the_kernel() -> None:
    """Tell OpenBLAS which kernels to use, unless OPENBLAS_CORETYPE does.

    That in faiss's wheel takes processors newer than itself for very old
    ones, and is three times slower then.
    """
    if not osp.isfile('/proc/cpuinfo'):
        return
    with open('/proc/cpuinfo') as file:
        flags = file.read()
    if 'avx512f' in flags:
        os.environ.setdefault('OPENBLAS_CORETYPE', 'SkylakeX')
    elif 'avx2' in flags:
        os.environ.setdefault('OPENBLAS_CORETYPE', 'Haswell')


if __name__ == '__main__':
    name_the_kernel()  # before numpy and faiss are loaded

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmpretrain.models import ResNet, SelfSupDataPreprocessor  # noqa: E402
from threadpoolctl import threadpool_info  # noqa: E402

from cyborgs_plugin.datasets.image_io import (  # noqa: E402
    IMG_EXTENSIONS,
    read_image,
)
from cyborgs_plugin.safe_load import load_weights  # noqa: E402
from cyborgs_plugin.segmentation import (  # noqa: E402
    FeatureExtractor,
    NetworkMasks,
    features,
    kmeans,
    make_round,
)

kmeans_module = sys.modules[kmeans.__module__]  # the function has its name

IMAGENET = SelfSupDataPreprocessor(
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), to_rgb=True)
SECONDS: dict[str, float] = defaultdict(float)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Add the time of a block to that of a part."""
    start = time.perf_counter()
    yield
    SECONDS[part] += time.perf_counter() - start


class Published:
    """The published procedure for a group of images."""

    def __init__(self, backbone: torch.nn.Module, layer: str,
                 num_clusters: int) -> None:
        self.backbone = backbone.eval() or backbone
        self.num_clusters = num_clusters
        self.output: Any = None
        backbone.get_submodule(layer).register_forward_hook(self.keep)

    def keep(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        """Keep the layer's output."""
        self.output = output

    @torch.no_grad()
    def features(self, image: np.ndarray) -> np.ndarray:
        """Unit vectors of an image, (h, w, C)."""
        rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
        self.backbone(((rgb.float() - IMAGENET.mean) / IMAGENET.std)[None])
        unit = torch.nn.functional.normalize(self.output[0], dim=0)
        return unit.permute(1, 2, 0).contiguous().numpy()

    def run(self, paths: Sequence[str], folder: str,
            seed: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Write a group's maps; returns its points (M, C), labels, bytes."""
        with timed('published: decode'):
            images = [read_image(path) for path in paths]
        with timed('published: forward'):
            maps = [self.features(image) for image in images]
            points = np.concatenate(
                [vectors.reshape(-1, vectors.shape[-1]) for vectors in maps])
        with timed('published: k-means'):
            kmeans = faiss.Kmeans(
                points.shape[1],
                self.num_clusters,
                niter=20,
                seed=seed,
                max_points_per_centroid=len(points))
            kmeans.train(points)
            labels = kmeans.index.search(points, 1)[1][:, 0]
        size, start = 0, 0
        with timed('published: write'):
            for path, image, vectors in zip(paths, images, maps):
                h, w = vectors.shape[:2]
                ids = labels[start:start + h * w].reshape(h, w)
                start += h * w
                rows, cols = (np.arange(side) * cells // side for side, cells
                              in zip(image.shape[:2], (h, w)))
                name = osp.join(folder, osp.basename(path) + '.npy')
                np.save(name, ids.astype(np.int64)[rows[:, None], cols])
                size += osp.getsize(name)
        return points, labels, size


class TimedMasks(NetworkMasks):
    """``NetworkMasks`` that tells how long its parts take."""

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Time what the base class made."""
        super().prepare(*args, **kwargs)
        for name, part in (('_extractor', 'forward'), ('_kmeans', 'k-means')):
            setattr(self, name, self.watch(getattr(self, name), part))

    @staticmethod
    def watch(function: Callable[..., Any],
              part: str) -> Callable[..., Any]:
        """Time the calls of a function."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with timed(f'ours: {part}'):
                return function(*args, **kwargs)

        return call


def inertia(points: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances to the means of the clusters."""
    total = 0.
    for cluster in np.unique(labels):
        members = points[labels == cluster].astype(np.float64)
        total += np.square(members - members.mean(axis=0)).sum()
    return total


def folder_size(folder: str) -> int:
    """Bytes of the files in a folder."""
    return sum(osp.getsize(osp.join(folder, name))
               for name in os.listdir(folder))


def find_images(root: str, number: int) -> list[str]:
    """The first image files of a folder and its subfolders."""
    found = sorted(
        osp.join(folder, name) for folder, _, names in os.walk(root)
        for name in names if name.lower().endswith(IMG_EXTENSIONS))
    if not found:
        sys.exit(f'--data-root {root}: no image files found')
    return found[:number]


def compare(paths: Sequence[str], backbone: torch.nn.Module,
            source: NetworkMasks, args: argparse.Namespace) -> str:
    """Both procedures in turn; prints the parts and the ratios."""
    published = Published(backbone, args.layer, args.num_clusters)
    groups = [paths[i:i + args.group_size]
              for i in range(0, len(paths), args.group_size)]
    sizes, losses = [0, 0], [0., 0.]
    warm = groups[0][:2]
    for number, group in enumerate([warm, *groups]):
        if number == 1:
            SECONDS.clear()
            sizes, losses = [0, 0], [0., 0.]
        with tempfile.TemporaryDirectory(dir=args.out_dir) as folder:
            points, labels, size = published.run(group, folder, number + 1)
            with timed('ours'):
                bank = make_round(source, [(p, p) for p in group], folder,
                                  number, args.seed, group_size=len(group),
                                  decode_threads=args.threads)
            own = np.concatenate([bank.label_map(p).ravel() for p in group])
            sizes[0] += size
            sizes[1] += folder_size(bank.path)
            losses[0] += inertia(points, labels)
            losses[1] += inertia(points, own)
    number = len(paths)
    ours = SECONDS.pop('ours')
    theirs = sum(value for part, value in SECONDS.items()
                 if part.startswith('published'))
    rest = ours - SECONDS['ours: forward'] - SECONDS['ours: k-means']
    SECONDS['ours: rest (decode, write, publish)'] = rest
    for part, value in SECONDS.items():
        print(f'{part:40} {value / number:.4f} s per image')
    for name, seconds, size in zip(('published', 'ours'), (theirs, ours),
                                   sizes):
        print(f'{name:40} {seconds / number:.4f} s and '
              f'{size / number:.0f} bytes per image')
    return (f'ratio: {theirs / ours:.2f} '
            f'inertia_ratio: {losses[1] / losses[0]:.4f} '
            f'bytes_ratio: {sizes[0] / sizes[1]:.0f}')


def steps(paths: Sequence[str], backbone: torch.nn.Module,
          args: argparse.Namespace) -> None:
    """What each way to be faster gives, on the first group."""
    images = [read_image(path) for path in paths[:args.group_size]]

    def best(name: str, function: Callable[[], Any]) -> Any:
        function()  # warm
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            result = function()
            seconds.append(time.perf_counter() - start)
        print(f'{name:44} {min(seconds) / len(images):.4f} s per image',
              end='')
        return result

    whole = Published(deepcopy(backbone), args.layer, args.num_clusters)
    points = np.concatenate(best('forward: whole network', lambda: [
        whole.features(image).reshape(-1, whole.output.shape[1])
        for image in images]))
    print()
    plain = FeatureExtractor(backbone, args.layer, IMAGENET)
    with mock.patch.object(features, 'fuse_conv_bn', lambda network: network):
        unfused = FeatureExtractor(backbone, args.layer, IMAGENET)
    half = FeatureExtractor(backbone, args.layer, IMAGENET,
                            dtype=torch.bfloat16)
    first = FeatureExtractor(backbone, args.layer, IMAGENET)
    first._max_pixels = 1 << 22
    for name, extractor in (
            ('stops at the layer, channels last', unfused),
            ('and conv + BN fused (ours)', plain),
            ('the same, up to 4M pixels per batch', first),
            ('ours in bfloat16', half)):
        best(f'forward: {name}', lambda: extractor(images))  # noqa: B023
        print()
    size, clusters = len(points), args.num_clusters

    def published() -> np.ndarray:
        oracle = faiss.Kmeans(points.shape[1], clusters, niter=20, seed=1,
                              max_points_per_centroid=size)
        oracle.train(points)
        return oracle.index.search(points, 1)[1][:, 0]

    reference = inertia(points, best('k-means: faiss', published))
    print()
    tensor, own = torch.from_numpy(points), kmeans_module._stages
    sampled = [(*stage[:2], 1.) for stage in own(size, clusters, 20)]
    for name, stages, products in (
            ('all points', [(size, 20, 1.)], nullcontext),
            ('and fast products', [(size, 20, 1.)], None),
            ('and samples', sampled, None),
            ('and long steps (ours)', own(size, clusters, 20), None)):
        with mock.patch.multiple(
                kmeans_module, _stages=lambda *_: stages,  # noqa: B023
                _fast_products=products or kmeans_module._fast_products):
            labels, _ = best(f'k-means: {name}', lambda: kmeans(
                tensor, clusters, seed=1))
            ratio = inertia(points, labels.numpy()) / reference
            print(f', inertia {ratio:.4f} of faiss')


def main() -> None:
    """Print the settings, the parts and, last, the ratios."""
    parser = argparse.ArgumentParser(
        description='Time the mask update against the published procedure')
    parser.add_argument('--data-root', required=True, help='image folder')
    parser.add_argument(
        '--num-images', type=int, default=64,
        help='of the round (default: %(default)s)')
    parser.add_argument(
        '--group-size', type=int, default=16,
        help='images that are clustered together (default: %(default)s)')
    parser.add_argument(
        '--num-clusters', type=int, default=129,
        help='of each group (default: %(default)s)')
    parser.add_argument('--depth', type=int, default=50, help='of the ResNet')
    parser.add_argument(
        '--layer', default='layer2.2',
        help='whose features are clustered (default: %(default)s)')
    parser.add_argument('--dtype', default='float32', help='of our forward')
    parser.add_argument('--checkpoint', help='weights of the backbone')
    parser.add_argument(
        '--threads', type=int, default=os.cpu_count(),
        help='of torch and faiss (default: %(default)s)')
    parser.add_argument(
        '--seed', type=int, default=0,
        help='of random weights (default: %(default)s)')
    parser.add_argument('--out-dir', help='disk to write to; default: /tmp')
    parser.add_argument(
        '--steps', action='store_true',
        help='instead: what each way to be faster gives, on one group')
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    backbone = ResNet(args.depth, out_indices=(1, 2, 3))
    backbone.init_weights()
    if args.checkpoint:
        backbone.load_state_dict(load_weights(args.checkpoint)['state_dict'])
    source = TimedMasks(
        args.layer, num_clusters=args.num_clusters, dtype=args.dtype)
    source.prepare(backbone, IMAGENET)
    paths = find_images(args.data_root, args.num_images)
    blas = [f'{info["prefix"]} {info["version"]} with '
            f'{info["architecture"]} kernels'
            for info in threadpool_info() if info['internal_api'] != 'openmp']
    print(f'{len(paths)} images, ResNet-{args.depth} of '
          f'{args.checkpoint or "random weights"}, {args.layer}, K = '
          f'{args.num_clusters}, groups of {args.group_size}, ours in '
          f'{args.dtype}; {args.threads} threads; torch {torch.__version__} '
          f'(MKL: {torch.backends.mkl.is_available()}, oneDNN: '
          f'{torch.backends.mkldnn.is_available()}), faiss '
          f'{faiss.__version__}; {", ".join(blas)}')
    if args.steps:
        steps(paths, backbone, args)
    else:
        print(compare(paths, backbone, source, args))


if __name__ == '__main__':
    main()
