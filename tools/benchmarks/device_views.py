"""What a view costs, made of photographs that are held, on a CPU.

Run: python tools/benchmarks/device_views.py --data-root FOLDER

Two ways make the same views of the same decoded photographs, in turn, in one
thread, by CPU time: the pipeline of commit f15b0f3 (mmpretrain's transforms,
which call Pillow), and what ``data_on_device=True`` does. Decoding is left
out on both sides. The last line has the ratio. With --batched there is a
third: the form that other devices take, which is no measure of a GPU. See
docs/performance.md.
"""
import argparse
import os
import os.path as osp
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is loaded

import cv2  # noqa: E402
import mmcv  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmcv.transforms import Compose  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmpretrain.datasets import RandomResizedCrop  # noqa: E402
from mmpretrain.registry import DATASETS, TRANSFORMS  # noqa: E402

from cyborgs_plugin.datasets.device_scenes import DeviceLoader  # noqa: E402
from cyborgs_plugin.datasets.view_laws import laws_of  # noqa: E402
from cyborgs_plugin.errors import UserError, reported  # noqa: E402
from cyborgs_plugin.ops import batch_views, crop_label_map  # noqa: E402


@TRANSFORMS.register_module()
class CropOfF15b0f3(RandomResizedCrop):
    """Image by mmcv and Pillow, label map by nearest, of one box."""

    def transform(self, results: dict) -> dict:
        """Crop and resize."""
        image = results['img']
        top, left, height, width = self.rand_crop_params(image)
        results['gt_seg_map'] = crop_label_map(
            results['gt_seg_map'], image.shape[:2],
            (top, left, height, width), tuple(self.scale))
        results['img'] = mmcv.imresize(
            image[top:top + height, left:left + width],
            tuple(self.scale[::-1]),
            interpolation='bicubic',
            backend='pillow')
        return results


def pipeline_of_f15b0f3(size: int, area: tuple[float, float],
                        sigma: float) -> Compose:
    """The recipe's pipeline after loading, as it was."""
    blur = dict(
        type='GaussianBlur', magnitude_range=(0.1, sigma), magnitude_std='inf')
    views = [[
        dict(
            type='CropOfF15b0f3', scale=size, crop_ratio_range=area,
            interpolation='bicubic', backend='pillow'),
        dict(type='RandomFlip', prob=0.5),
        dict(
            type='RandomApply',
            transforms=[
                dict(
                    type='ColorJitter', brightness=0.4, contrast=0.4,
                    saturation=0.2, hue=0.1)
            ],
            prob=0.8),
        dict(
            type='RandomGrayscale', prob=0.2, keep_channels=True,
            channel_weights=(0.114, 0.587, 0.2989)),
        dict(blur, prob=blurred),
        dict(type='Solarize', thr=128, prob=solarised)
    ] for blurred, solarised in ((1., 0.), (0.1, 0.2))]
    return Compose([
        dict(type='MaskedMultiView', num_views=[1, 1], transforms=views),
        dict(type='PackInputs')
    ])


class OneMap:
    """Stands for a mask bank: all photographs have one label map."""

    num_clusterings = 1
    manifest: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return True

    def label_map(self, key: str, clustering: int = 0) -> np.ndarray:
        """Ids (60, 80), uint8."""
        return np.arange(4800, dtype=np.uint8).reshape(60, 80) // 50


class Loader:
    """As much of a data loader as is needed."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.sampler = self.batch_sampler = [list(range(len(dataset)))]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='What a view costs')
    parser.add_argument(
        '--data-root', required=True, help='a folder of photographs')
    parser.add_argument(
        '--images', type=int, default=48, help='how many (default: 48)')
    parser.add_argument(
        '--rounds', type=int, default=9,
        help='whose median counts for each way (default: 9)')
    parser.add_argument(
        '--batched', action='store_true',
        help='time the form of other devices, too')
    return parser.parse_args()


def clock(ways: dict[str, Callable[[], object]], rounds: int,
          views: int) -> dict[str, float]:
    """Median CPU time of each way in ms per view, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            start = time.process_time()
            ways[name]()
            if number:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return {
        name: float(np.median(times)) / views * 1e3
        for name, times in seconds.items()
    }


def held_scenes(recipe: str, folder: str, number: int,
                device: torch.device) -> DeviceLoader:
    """Hold photographs, and a label map for all, on a device."""
    cfg = Config.fromfile(
        osp.join(osp.dirname(__file__), '..', '..', 'configs', '_base_',
                 'datasets', f'{recipe}_scenes.py')).train_dataloader.dataset
    cfg.update(data_root='', indices=number,
               data_prefix=osp.abspath(folder))
    dataset = DATASETS.build(cfg)
    dataset.use_masks(OneMap())
    loader = DeviceLoader(
        Loader(dataset), laws_of(dataset.pipeline.transforms), device,
        1 << 16, seed=0)
    loader.load()
    next(iter(loader))  # reads the label maps
    return loader


def compare(args: argparse.Namespace, size: int, area: tuple[float, float],
            sigma: float) -> float:
    """Print a line for a kind of views; returns the ratio."""
    recipe = 'coco' if size == 224 else 'small'
    loader = held_scenes(
        recipe, args.data_root, args.images, torch.device('cpu'))
    dataset = loader.dataset
    images = [loader.held.image(path) for _, path in dataset.images()]
    ours = pipeline_of_f15b0f3(size, area, sigma)
    label_map = OneMap().label_map('')

    def published() -> None:
        for image in images:
            ours(dict(img=image, gt_seg_map=label_map,
                      seg_fields=['gt_seg_map']))

    def held() -> None:
        loader.batch(range(len(images)))

    def batched() -> None:
        one_by_one, batch_views._one_by_one = (
            batch_views._one_by_one, batch_views.batched)
        held()
        batch_views._one_by_one = one_by_one

    ways: dict[str, Callable[[], object]] = dict(
        published=published, held=held)
    if args.batched:
        ways['batched'] = batched
    found = clock(ways, args.rounds, 2 * len(images))
    ratio = found['held'] / found['published']
    print(
        f'{size} pixels, {len(images)} photographs, ms per view: f15b0f3 '
        f'{found["published"]:.2f}, held {found["held"]:.2f}'
        + (f', batched {found["batched"]:.2f}' if args.batched else '')
        + f'; ratio {ratio:.3f}')
    return ratio


@reported()
def main() -> None:
    """Compare both sizes of the recipes."""
    args = parse_args()
    if args.images < 1 or args.rounds < 1:
        raise UserError('--images and --rounds must be 1 or more')
    warnings.filterwarnings('ignore')  # mmcv has one for each saturation
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    init_default_scope('mmpretrain')
    ratios = [
        compare(args, 224, (0.08, 1.), 2.),
        compare(args, 96, (0.2, 1.), 0.9)
    ]
    print(f'A held view costs {max(ratios):.3f} of one of f15b0f3 '
          '(bar: 0.25)')


if __name__ == '__main__':
    main()
