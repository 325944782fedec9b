"""Images a second that a core makes ready: ours against mmpretrain's BYOL.

Run: python tools/benchmarks/pipeline_speed.py --data-root FOLDER

Two pipelines, that of mmpretrain's byol_resnet50 and that of --config, load
the same photographs and make two views of them, in turn, image by image, in
one thread, by CPU time. It prints images per second of a core, what each
transform takes, and how many cores keep a GPU busy with steps of --step-ms.
With --colours-on-device a third row has ours with the option of that name,
by which a worker only decodes and crops. Fetching a batch from the workers
is left out on all sides; with --workers it is seen what a step waits for
them. See docs/performance.md.
"""
import argparse
import math
import os
import os.path as osp
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is loaded

import cv2  # noqa: E402
import mmpretrain  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmcv.transforms import Compose  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dataset import default_collate  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmpretrain.datasets import MultiView  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from cyborgs_plugin.datasets.image_files import list_images  # noqa: E402
from cyborgs_plugin.datasets.view_laws import decoded_side  # noqa: E402
from cyborgs_plugin.engine.config_options import move_colours  # noqa: E402
from cyborgs_plugin.engine.view_crops import view_crops  # noqa: E402
from cyborgs_plugin.errors import UserError, reported  # noqa: E402

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
RECIPE = osp.join(ROOT, 'configs', 'cyborgs_coco.py')
BYOL = osp.join(osp.dirname(mmpretrain.__file__), '.mim', 'configs', 'byol',
                'byol_resnet50_16xb256-coslr-200e_in1k.py')
LABEL_MAP = np.arange(4800, dtype=np.uint8).reshape(60, 80) // 50
"""That of all photographs: cells of 8 pixels of 480 x 640."""
_FOREIGN = ('mmcv.', 'mmpretrain.')
"""Of whose transforms the rows have the names."""


def build(cfg: Config, size: int | None = None) -> Compose:
    """Build the pipeline of a config.

    Args:
        cfg (Config): Of a pretraining with views.
        size (int, optional): The side of its views. Defaults to None, its
            own.
    """
    dataset = cfg.train_dataloader.dataset
    if size is not None:
        for crop in view_crops(dataset).values():
            crop.scale = size
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose(dataset.pipeline)
    if not any(isinstance(step, MultiView) for step in pipeline.transforms):
        raise UserError(f'{cfg.filename}: its pipeline makes no views '
                        '(MultiView or MaskedMultiView)')
    pipeline.least_side = decoded_side(pipeline.transforms)
    return pipeline


def pipelines(config: str, colours_on_device: bool = False,
              size: int | None = None) -> dict[str, Compose]:
    """Build what is compared.

    Args:
        config (str): Ours.
        colours_on_device (bool): Build a third one, without colours.
            Defaults to False.
        size (int, optional): The side of all views. Defaults to None, that
            of each config.
    """
    built = dict(
        byol=build(Config.fromfile(BYOL), size),
        ours=build(Config.fromfile(config), size))
    if colours_on_device:
        cfg = Config.fromfile(config)
        move_colours(cfg)
        built['colours on the device'] = build(cfg, size)
    return built


class Timed:
    """A transform whose CPU time is added up."""

    def __init__(self, step: Any, seconds: dict[str, float],
                 inner: str | None = None) -> None:
        self._step = step
        self._seconds = seconds
        self._name = name_of(step)
        self._inner = inner
        """What is a part of it and has a row of its own."""
        seconds.setdefault(self._name, 0.)

    def __call__(self, results: dict) -> dict:
        """Transform, and note how long that took."""
        parts = sum(self._seconds.values()) if self._inner else 0.
        start = time.process_time()
        results = self._step(results)
        spent = time.process_time() - start
        if self._inner:  # less than what the parts took
            spent -= sum(self._seconds.values()) - parts
        self._seconds[self._name] += spent
        return results


def name_of(step: Any) -> str:
    """The transform of mmcv or mmpretrain that one is, or stands for."""
    inner = getattr(getattr(step, 'transforms', None), 'transforms', None)
    if inner is not None and len(inner) == 1:  # RandomApply of one
        return name_of(inner[0])
    if type(step).__name__.startswith('Load'):
        return 'load'
    if isinstance(step, MultiView):
        return 'copies and stacks of views'
    return next((kind.__name__ for kind in type(step).__mro__
                 if kind.__module__.startswith(_FOREIGN)),
                type(step).__name__)


def timed(pipeline: Compose) -> dict[str, float]:
    """Let the transforms of a pipeline add up their seconds in a table."""
    seconds: dict[str, float] = {}
    for place, step in enumerate(pipeline.transforms):
        views = isinstance(step, MultiView)
        for view in step.pipelines if views else ():
            view.transforms = [Timed(one, seconds) for one in view.transforms]
        pipeline.transforms[place] = Timed(
            step, seconds, 'views' if views else None)
    return seconds


def sample(pipeline: Any, path: str) -> dict[str, Any]:
    """What a data set gives to a pipeline; BYOL's takes the path alone."""
    side = getattr(pipeline, 'least_side', None)
    return dict(img_path=path, gt_seg_map=LABEL_MAP,
                seg_fields=['gt_seg_map'],
                image_options=dict(least_side=side))


def rates(built: dict[str, Compose], paths: Sequence[str],
          seconds: float) -> dict[str, float]:
    """Images a second of CPU time of each pipeline, in turn.

    Args:
        built (dict[str, Compose]): The pipelines.
        paths (Sequence[str]): Photographs.
        seconds (float): How long to measure. Each photograph is taken at
            least once.
    """
    spent = dict.fromkeys(built, 0.)
    for pipeline in built.values():  # warms up
        pipeline(sample(pipeline, paths[0]))
    begin, number = time.monotonic(), 0
    while not number or time.monotonic() - begin < seconds:
        for path in paths:  # whole rounds: photographs differ
            names = list(built) if number % 2 else list(built)[::-1]
            for name in names:
                start = time.process_time()
                built[name](sample(built[name], path))
                spent[name] += time.process_time() - start
            number += 1
    return {name: number / value for name, value in spent.items()}


def measure(paths: list[str], seconds: float) -> dict[str, float]:
    """Compare the recipe's pipeline with BYOL's.

    Args:
        paths (list[str]): Photographs.
        seconds (float): How long to measure.

    Returns:
        dict[str, float]: ``byol`` and ``ours``, images per second of a core,
        and their ``ratio``, above 1 where ours is faster.
    """
    with one_thread():
        found = rates(pipelines(RECIPE), paths, seconds)
    return dict(found, ratio=found['ours'] / found['byol'])


@contextmanager
def one_thread() -> Iterator[None]:
    """In here there is one thread, and mmcv has no warnings."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # mmcv has one for each saturation
        yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


def breakdown(built: dict[str, Compose], paths: Sequence[str],
              rounds: int) -> Iterator[str]:
    """Lines of a table: what each transform takes of an image, in ms."""
    tables = {name: timed(pipeline) for name, pipeline in built.items()}
    for _ in range(rounds):
        for path in paths:
            for pipeline in built.values():
                pipeline(sample(pipeline, path))
    yield '| ms per image, both views | ' + ' | '.join(tables) + ' |'
    yield '|---' * (1 + len(tables)) + '|'
    images = rounds * len(paths) / 1e3
    for row in dict.fromkeys(name for table in tables.values()
                             for name in table):
        yield f'| {row} | ' + ' | '.join(
            f'{table[row] / images:.2f}' if row in table else '-'
            for table in tables.values()) + ' |'
    yield '| sum | ' + ' | '.join(
        f'{sum(table.values()) / images:.2f}' for table in tables.values()
    ) + ' |'


class Views(Dataset):
    """The samples of a pipeline, of the photographs over and over."""

    def __init__(self, pipeline: Compose, paths: Sequence[str],
                 number: int) -> None:
        self._pipeline = pipeline
        self._paths = paths
        self._number = number

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> dict:
        path = self._paths[index % len(self._paths)]
        return self._pipeline(sample(self._pipeline, path))


def waits(pipeline: Compose, paths: Sequence[str], workers: int, batch: int,
          step: float, steps: int = 60) -> list[float]:
    """Seconds for which steps wait for their batches: the log's data_time.

    Args:
        pipeline (Compose): What workers do.
        paths (Sequence[str]): Photographs.
        workers (int): Processes that make batches.
        batch (int): Images of a step.
        step (float): Seconds of a step, which sleeps.
        steps (int): How many. Defaults to 60, whose first 20 do not count.
    """
    loader = DataLoader(
        Views(pipeline, paths, batch * steps), batch, num_workers=workers,
        collate_fn=default_collate, worker_init_fn=in_one_thread)
    found, begin = [], time.monotonic()
    for _ in loader:
        found.append(time.monotonic() - begin)
        time.sleep(step)
        begin = time.monotonic()
    return found[20:]


def in_one_thread(_: int) -> None:
    """Set up a worker."""
    cv2.setNumThreads(0)
    warnings.simplefilter('ignore')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Images/s per core of our pipeline and of BYOL's")
    parser.add_argument(
        '--data-root', required=True, help='a folder of photographs')
    parser.add_argument(
        '--config', default=RECIPE,
        help='ours (default: configs/cyborgs_coco.py)')
    parser.add_argument(
        '--colours-on-device', action='store_true',
        help='measure ours with that option, too')
    parser.add_argument(
        '--view-size', type=int,
        help='the side of all views (default: that of each config)')
    parser.add_argument(
        '--images', type=int, default=64, help='how many (default: 64)')
    parser.add_argument(
        '--seconds', type=float, default=40.,
        help='how long to measure (default: 40)')
    parser.add_argument(
        '--step-ms', type=float, default=250.,
        help='of a step on a GPU, for the cores it needs (default: 250)')
    parser.add_argument(
        '--batch', type=int, default=128,
        help='images of that step (default: 128)')
    parser.add_argument(
        '--workers', type=int,
        help='let so many make batches of --batch for steps that sleep for '
        '--step-ms, and print how long these wait')
    return parser.parse_args()


@reported()
def main() -> None:
    """Measure, and print."""
    args = parse_args()
    for name in ('images', 'seconds', 'step_ms', 'batch', 'view_size',
                 'workers'):
        if (value := getattr(args, name)) is not None and value <= 0:
            raise UserError(f'--{name.replace("_", "-")} {value}: expected '
                            'more than 0')
    paths = list_images(args.data_root)[:args.images]
    built = pipelines(args.config, args.colours_on_device, args.view_size)
    if args.workers:
        for name, pipeline in built.items():
            found = waits(pipeline, paths, args.workers, args.batch,
                          args.step_ms / 1e3)
            print(f'{name}: a step of {args.step_ms:.0f} ms with {args.batch} '
                  f'images waits {np.median(found) * 1e3:.1f} ms for '
                  f'{args.workers} workers (median; mean '
                  f'{np.mean(found) * 1e3:.1f} ms)')
        return
    wanted = args.batch / args.step_ms * 1e3
    with one_thread():
        rate_of = rates(built, paths, args.seconds)
        lines = list(breakdown(built, paths, rounds=2))
    print('\n'.join(lines))
    for name, rate in rate_of.items():
        print(f'{name}: {rate:.1f} images/s of a core, '
              f'{rate / rate_of["byol"]:.2f} times BYOL\'s; '
              f'{math.ceil(wanted / rate)} cores for a GPU that takes '
              f'{wanted:.0f} images/s')
    ratio = rate_of['ours'] / rate_of['byol']
    print(f'Ours makes {ratio:.2f} images in the time '
          "of one of BYOL's (bar: 3.0)")


if __name__ == '__main__':
    main()
