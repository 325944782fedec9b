"""Check a machine with a GPU: is it right, how fast, and fed by what.

Run: make gpu-check                    (at most 10 minutes)
     python tools/benchmarks/gpu_check.py --light --data-root PHOTOS

A part that fails says so, and the next one runs; what was measured is kept in
--out after each. It ends with a table. --light wants torch, mmengine,
mmpretrain and mmcv alone, which may lack its ops. Without a GPU it says so,
and runs the tests on a pretended one. See docs/performance.md.
"""
import argparse
import json
import logging
import os
import os.path as osp
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmpretrain.models import MobileNetV2, ResNet, SelfSupDataPreprocessor
from mmpretrain.registry import MODELS, TASK_UTILS
from mmpretrain.structures import DataSample
from torch import Tensor

from cyborgs_plugin.commands import command
from cyborgs_plugin.datasets.image_files import list_images
from cyborgs_plugin.datasets.image_io import read_image
from cyborgs_plugin.errors import reported
from cyborgs_plugin.models.mask_contrastive_loss import mask_contrastive_loss
from cyborgs_plugin.models.regions import cell_labels, pool_regions
from cyborgs_plugin.segmentation import (
    FeatureExtractor,
    NetworkMasks,
    kmeans,
    make_round,
)
from cyborgs_plugin.segmentation.mask_round import own_cores
from cyborgs_plugin.version import require_mmcv_ops

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
RECIPE = osp.join(ROOT, 'configs', 'cyborgs_coco.py')
SMALL = osp.join(ROOT, 'configs', 'cyborgs_small_data.py')
IMAGENET = dict(
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), to_rgb=True)
BATCH = 64
# ResNet-50 at 224; the compiler may take minutes, so it comes last
STEPS: dict[str, dict[str, Any]] = {
    'float32': {},
    'bfloat16': dict(amp='bfloat16'),
    'float16': dict(amp='float16'),
    'bfloat16, channels last': dict(amp='bfloat16', channels_last=True),
    'bfloat16, compiled': dict(amp='bfloat16', compiled=True),
}
Limits = dict[str, tuple[float, float]]
"""What was found, and the most that may be."""


def equal_to_cpu(device: str) -> Limits:
    """Differences of what a device computes from what the CPU does."""
    random = torch.Generator().manual_seed(0)
    found: Limits = {}

    def both(function: Callable[[str], Tensor]) -> tuple[Tensor, Tensor]:
        return function('cpu').float(), function(device).cpu().float()

    def differ(name: str, function: Callable[[str], Tensor],
               limit: float) -> None:
        one, other = both(function)
        found[name] = float((one - other).abs().max()), limit

    vectors = [torch.randn(8, 16, 256, generator=random) for _ in range(4)]
    ids = [torch.randint(-1, 6, (8, 16), generator=random) for _ in range(4)]

    def loss(place: str) -> Tensor:
        tensors: list[Any] = [one.to(place, copy=True) for one in vectors]
        preds = [one.requires_grad_() for one in tensors[:2]]
        value = mask_contrastive_loss(
            *tensors, *(one.to(place) for one in ids))
        gradients = torch.autograd.grad(value, preds)
        return torch.cat([value.detach().reshape(1)]
                         + [one.flatten() for one in gradients])

    differ('loss and gradient', loss, 1e-4)
    coarse = torch.randint(0, 9, (4, 14, 14), generator=random)
    maps = coarse.repeat_interleave(16, 1).repeat_interleave(16, 2)
    differ('cells of label maps',
           lambda place: cell_labels(maps.to(place), (7, 7)), 0.)
    features = torch.randn(4, 256, 7, 7, generator=random)
    cells = cell_labels(maps, (7, 7))
    regions = torch.randint(0, 9, (4, 16), generator=random)
    differ('pooling', lambda place: pool_regions(
        features.to(place), cells.to(place), regions.to(place)), 1e-4)
    centres = torch.randn(16, 64, generator=random) * 3
    points = centres[torch.randint(16, (9000, ), generator=random)]
    points += torch.randn(points.shape, generator=random)
    # Each cluster is found. Where one is cut in two, rounding decides how.
    one, other = (kmeans(points.to(place), 16, seed=2, init='k-means++')
                  for place in ('cpu', device))
    inertias = [float((points - centroids.cpu()[labels.cpu()]).square().sum())
                for labels, centroids in (one, other)]
    found['k-means, inertia'] = abs(inertias[1] / inertias[0] - 1), 1e-3
    found['k-means, other labels'] = float(
        (one[0] != other[0].cpu()).float().mean()), 0.01
    network, image = resnet(18), pictures(1)[0]
    differ('features', lambda place: FeatureExtractor(
        network.to(place), 'layer2.1',
        SelfSupDataPreprocessor(**IMAGENET).to(place))([image])[0], 0.02)
    return found


def resnet(depth: int) -> Any:
    """A network whose statistics are not those of a fresh one."""
    torch.manual_seed(0)
    network = ResNet(depth, out_indices=(1, 2, 3))
    network.init_weights()
    for name, tensor in network.named_buffers():
        if name.endswith('mean'):
            tensor.normal_(std=0.1)
        elif name.endswith('var'):
            tensor.uniform_(0.5, 1.5)
    return network


def pictures(number: int, size: tuple[int, int] = (480, 640)
             ) -> list[np.ndarray]:
    """Drawn pictures (H, W, 3), which stand for photographs."""
    random = np.random.default_rng(0)
    return [
        cv2.add(
            cv2.resize(random.integers(0, 200, (9, 12, 3), np.uint8),
                       size[::-1], interpolation=cv2.INTER_CUBIC),
            random.integers(0, 24, (*size, 3), np.uint8))
        for _ in range(number)
    ]


def find_photos(root: str | None, number: int, folder: str) -> list[str]:
    """Photographs of a folder; drawn pictures where there is none."""
    if root is not None:
        return list_images(root)[:number]
    paths = [osp.join(folder, f'{i:03d}.jpg') for i in range(number)]
    for path, picture in zip(paths, pictures(number)):
        cv2.imwrite(path, picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return paths


def mask_round(paths: Sequence[str], device: str,
               network: torch.nn.Module | None = None,
               layer: str = 'layer2.2', group_size: int = 16,
               threads: int | None = None, smooth: float = 0.
               ) -> dict[str, Any]:
    """Seconds an image of a round, and of its parts by themselves."""
    threads = threads or own_cores(group_size)
    source = NetworkMasks(layer, num_clusters=129, smooth=smooth)
    source.prepare((network or resnet(50)).to(device),
                   SelfSupDataPreprocessor(**IMAGENET).to(device))
    groups = [paths[i:i + group_size]
              for i in range(0, len(paths), group_size)]
    seconds = dict.fromkeys(('decode', 'forward', 'k-means'), 0.)
    forget = [groups[0][:2]]  # what is slow the first time only
    with ThreadPoolExecutor(threads) as pool:
        for number, group in enumerate(forget + groups):
            marks = [clock(device)]
            images = list(pool.map(read_image, group))
            marks.append(clock(device))
            features = source.features(images)
            marks.append(clock(device))
            source.cluster(features, group, (0, 0, number))
            marks.append(clock(device))
            if number:
                for part, begin, end in zip(seconds, marks, marks[1:]):
                    seconds[part] += end - begin
    with tempfile.TemporaryDirectory() as folder:
        begin = clock(device)
        make_round(source, [(path, path) for path in paths], folder, 0, 0,
                   group_size, decode_threads=threads)
        whole = clock(device) - begin
    return {
        'seconds per image': whole / len(paths),
        'images': len(paths),
        'decoding threads': threads,
        **{f'{part}, alone': value / len(paths)
           for part, value in seconds.items()}
    }


def superpixel_rounds(paths: Sequence[str], device: str) -> dict[str, Any]:
    """Seconds an image of the rounds of small data, merged superpixels."""
    cfg = Config.fromfile(SMALL)
    init_default_scope('mmpretrain')
    hook = cfg.default_hooks.mask_update
    source = TASK_UTILS.build(hook.source)
    backbone = MODELS.build(cfg.model.backbone).to(device)
    source.prepare(backbone,
                   MODELS.build(cfg.model.data_preprocessor).to(device))
    warm = source.preprocess(np.zeros((480, 640, 3), np.uint8))
    source.label_maps([warm], ['warm'], (0, 0))
    found: dict[str, Any] = {'images': len(paths)}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(('first', 'later')):
            begin = clock(device)
            make_round(source, [(path, path) for path in paths], folder,
                       number, 0, hook.group_size, progress=False)
            found[f'{name}, seconds per image'] = (
                clock(device) - begin) / len(paths)
    return found


def clock(device: str) -> float:
    """The time when the device has done what it was given."""
    if device != 'cpu':
        torch.cuda.synchronize()
    return time.perf_counter()


def steps(device: str, remaining: Callable[[], float]) -> dict[str, Any]:
    """Our step against that of mmpretrain's BYOL, in several precisions."""
    measure = import_module('step_speed').measure
    found: dict[str, Any] = {}
    for name, options in STEPS.items():
        if remaining() < (180 if 'compiled' in options else 45):
            found[name] = 'not measured: the time is up'
            continue
        try:
            found[name] = measure(depth=50, size=224, batch=BATCH,
                                  device=device, **options)
        except Exception as error:  # out of memory, or no such precision
            found[name] = say(error)
        torch.cuda.empty_cache()
    return found


def pipeline(paths: Sequence[str]) -> dict[str, Any]:
    """Images a second that a core makes ready."""
    return import_module('pipeline_speed').measure(list(paths), seconds=20.)


def device_views(folder: str, number: int, device: str,
                 batches: int = 20) -> dict[str, Any]:
    """Images a second whose two views are made on the device."""
    tools = import_module('device_views')
    init_default_scope('mmpretrain')
    loader = tools.held_scenes('coco', folder, number, torch.device(device))
    indices = [i % len(loader.dataset) for i in range(BATCH)]
    seconds = []
    for _ in range(batches + 3):
        begin = clock(device)
        loader.batch(indices)
        seconds.append(clock(device) - begin)
    return {'images a second': BATCH / float(np.median(seconds[3:])),
            'photographs': number, 'batch': BATCH}


def machine(device: str) -> dict[str, Any]:
    """What it is."""
    found: dict[str, Any] = {
        'date': time.strftime('%Y-%m-%d'),
        'torch': torch.__version__,
        'cores': len(os.sched_getaffinity(0)),
    }
    if device != 'cpu':
        found.update({
            'GPU': torch.cuda.get_device_name(),
            'GPUs': torch.cuda.device_count(),
            'capability': '.'.join(
                map(str, torch.cuda.get_device_capability())),
            'memory, GiB': round(
                torch.cuda.get_device_properties(0).total_memory / 2**30),
            'cuDNN': torch.backends.cudnn.version(),
        })
    return found


def run_tests(marked: str, limit: float) -> str:
    """The last line of pytest on tests/test_devices."""
    folder = osp.join(ROOT, 'tests', 'test_devices')
    if find_spec('pytest') is None or not osp.isdir(folder):
        return 'not run: pytest, or the folder tests/, is not here'
    return last_line([
        sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider',
        '-m', marked, folder
    ], limit)


def last_line(command: list[str], limit: float) -> str:
    """Run a command; its last line, or the last ones where it fails."""
    places = [ROOT, *filter(None, [os.environ.get('PYTHONPATH')])]
    try:
        done = subprocess.run(
            command, cwd=ROOT, text=True, errors='replace', timeout=limit,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(places)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired:
        return f'FAILED: longer than {limit:.0f} s'
    lines = done.stdout.strip().splitlines() or ['']
    if done.returncode:
        return 'FAILED: ' + ' / '.join(lines[-12:])[-900:]
    return lines[-1]


def two_ranks(limit: float) -> str:
    """What becomes of two processes that train together by NCCL."""
    said = last_line([
        sys.executable, '-m', 'torch.distributed.run', '--standalone',
        '--nproc_per_node=2', osp.abspath(__file__), '--rank'
    ], limit)
    if torch.cuda.device_count() < 2 and 'FAILED' in said:
        return f'not on one GPU: {said[-200:]}'
    return said


def rank() -> None:
    """One of two processes: a step of the recipe, by DDP and SyncBN."""
    number = int(os.environ['LOCAL_RANK'])
    torch.cuda.set_device(number % torch.cuda.device_count())
    torch.distributed.init_process_group('nccl')
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    MessageHub.get_current_instance().update_info('max_iters', 100)
    model = MODELS.build(Config.fromfile(RECIPE).model)
    model.init_weights()
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model).cuda()
    model = MMDistributedDataParallel(
        model, device_ids=[torch.cuda.current_device()],
        broadcast_buffers=False)
    losses = model(**model.module.data_preprocessor(fake_batch(number), True),
                   mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    total = sum(parameter.grad.square().sum()
                for parameter in model.parameters()
                if parameter.grad is not None).reshape(1)
    totals = [torch.zeros_like(total) for _ in range(2)]
    torch.distributed.all_gather(totals, total)
    if number == 0:
        equal = torch.equal(*totals) and bool(torch.isfinite(total))
        print(f'two processes, {torch.cuda.device_count()} GPUs: gradients '
              f'{"equal" if equal else f"DIFFER, FAILED: {totals}"}',
              flush=True)
    torch.distributed.destroy_process_group()


def fake_batch(seed: int, batch: int = 4, size: int = 224) -> dict[str, Any]:
    """Random views with masks, as the loader gives them."""
    random = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(batch):
        coarse = torch.randint(6, (2, 4, 4), generator=random).byte()
        sample = DataSample()
        sample.set_mask(coarse.repeat_interleave(size // 4, 1)
                        .repeat_interleave(size // 4, 2))
        samples.append(sample)
    return dict(
        inputs=[torch.randint(256, (batch, 3, size, size), generator=random,
                              dtype=torch.uint8) for _ in range(2)],
        data_samples=samples)


def training(paths: Sequence[str], folder: str, limit: float) -> str:
    """Train by tools/train.py, and resume."""
    photos = osp.join(folder, 'photos')
    os.makedirs(photos, exist_ok=True)
    for number, path in enumerate(paths):
        os.symlink(osp.abspath(path), osp.join(
            photos, f'{number:03d}{osp.splitext(path)[1]}'))
    command = [
        sys.executable, osp.join(ROOT, 'tools', 'train.py'),
        SMALL, '--amp',
        '--work-dir', osp.join(folder, 'run')]
    options = ['--cfg-options', f'data={photos}',
               'train_dataloader.batch_size=8',
               'default_hooks.checkpoint.interval=1']
    begin = time.monotonic()
    for epochs, resume in ((1, []), (2, ['--resume'])):
        said = last_line(
            [*command, *resume, *options, f'train_cfg.max_epochs={epochs}'],
            limit - (time.monotonic() - begin))
        if 'FAILED' in said:
            return said
    return (f'2 epochs of {len(paths)} images, the second resumed: '
            f'{time.monotonic() - begin:.0f} s')


def mmcv_ops(device: str) -> str:
    """NMS of mmcv against that of the CPU."""
    require_mmcv_ops()
    from mmcv.ops import nms
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(500, 2, generator=random) * 50
    boxes = torch.cat([corners, corners + 10], 1)
    scores = torch.rand(500, generator=random)
    kept = [nms(boxes.to(place), scores.to(place), 0.5)[1].cpu()
            for place in ('cpu', device)]
    return ('NMS keeps what it keeps on the CPU' if torch.equal(*kept) else
            f'FAILED: NMS keeps {len(kept[1])} boxes, not {len(kept[0])}')


def say(error: Exception) -> str:
    """An error in a line."""
    return f'FAILED: {type(error).__name__}: {" ".join(str(error).split())}'[
        :400]


def to_plan(result: dict[str, Any]) -> dict[str, Any]:
    """Arguments of tools/benchmarks/plan.py, as far as they were measured."""
    found: dict[str, Any] = {}
    step = result.get('steps', {})
    if isinstance(step, dict) and isinstance(step.get('bfloat16'), dict):
        found.update(
            step=step['bfloat16']['cyborgs_ms'] / 1e3, batch=BATCH)
    rate = result.get('pipeline', {})
    if isinstance(rate, dict) and 'ours' in rate:
        found['pipeline'] = rate['ours']
    masks = result.get('mask round', {})
    if isinstance(masks, dict) and 'seconds per image' in masks:
        found['round'] = masks['seconds per image']
    return found


def fed(result: dict[str, Any]) -> str | None:
    """How many GPUs the cores feed."""
    values = to_plan(result)
    if not {'step', 'pipeline'} <= values.keys():
        return None
    cores = result['machine']['cores']
    wanted = values['batch'] / values['step']
    made = cores * values['pipeline']
    return (f'{cores} cores make {made:.0f} images/s, a GPU takes '
            f'{wanted:.0f} in bfloat16: they feed {made / wanted:.1f}')


def table(result: dict[str, Any]) -> str:
    """All that was found, as Markdown."""
    lines = ['| what | found |', '|---|---|']
    for part, found in result.items():
        if part == 'plan':
            continue
        if not isinstance(found, dict):
            found = {'': found}
        for name, value in found.items():
            title = f'{part}: {name}' if name else part
            lines.append(f'| {title} | {shown(value)} |')
    return '\n'.join(lines)


def shown(value: Any) -> str:
    """A value of the table."""
    if isinstance(value, dict):
        return ', '.join(f'{name} {shown(one)}'
                         for name, one in value.items())
    if isinstance(value, (tuple, list)):  # of Limits
        found, limit = value
        return f'{found:.2g}' + f' ABOVE {limit:g}' * (found > limit)
    if isinstance(value, float):
        return f'{value:.4g}'
    return str(value).replace('|', '/')


def failed(result: Any) -> bool:
    """Whether anything in it is not as it should be."""
    if isinstance(result, dict):
        return any(map(failed, result.values()))
    if isinstance(result, (tuple, list)):
        return result[0] > result[1]
    return isinstance(result, str) and 'FAILED' in result


def check(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Run the parts in turn, as far as the time goes."""
    begin = time.monotonic()
    result: dict[str, Any] = {}

    def remaining() -> float:
        return args.seconds - (time.monotonic() - begin)

    def part(name: str, function: Callable[[], Any], needs: float) -> None:
        if remaining() < needs:
            result[name] = f'not run: {args.seconds:.0f} s are over'
        else:
            try:
                result[name] = function()
            except ModuleNotFoundError as error:
                result[name] = f'not run: {error.name} is not here'
            except Exception as error:
                result[name] = say(error)
        result['plan'] = to_plan(result)
        print(f'{args.seconds - remaining():4.0f} s  {name}: '
              f'{shown(result[name])}', flush=True)
        with open(args.out, 'w') as file:
            json.dump(result, file, indent=1)

    part('machine', lambda: machine(device), 0)
    if device == 'cpu':
        part('tests on a pretended GPU', lambda: run_tests(
            'not gpu', remaining()), 20)
        return result
    with tempfile.TemporaryDirectory() as folder:
        paths = find_photos(args.data_root, 64, folder)
        part('equal to the CPU, differences', lambda: equal_to_cpu(device),
             20)
        part('tests marked gpu', lambda: run_tests(
            'gpu', min(120, remaining())), 30)
        if not args.light:
            part('ops of mmcv', lambda: mmcv_ops(device), 10)
        part('mask round', lambda: mask_round(paths, device), 30)
        part('mask round of a teacher', lambda: mask_round(
            paths, device, MobileNetV2(out_indices=(7, )), 'layer3',
            smooth=32.), 30)
        part('mask rounds of superpixels',
             lambda: superpixel_rounds(paths, device), 30)
        part('pipeline', lambda: pipeline(paths), 40)
        part('views on the device', lambda: device_views(
            args.data_root or folder, len(paths), device), 20)
        part('two processes', lambda: two_ranks(min(90, remaining())), 60)
        part('training', lambda: training(
            paths, folder, min(150, remaining())), 60)
        part('steps', lambda: steps(device, remaining), 60)
        part('cores', lambda: fed(result) or 'not reckoned', 0)
    return result


@reported()
def main() -> None:
    """Check this machine; the exit code is 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        description='Check a machine with a GPU, in at most 10 minutes')
    parser.add_argument(
        '--light', action='store_true',
        help='leave out what needs the ops of mmcv')
    parser.add_argument(
        '--data-root',
        help='photographs; without it pictures are drawn, which decode '
        'faster than photographs do')
    parser.add_argument(
        '--out', default='gpu_check.json', help='default: gpu_check.json')
    parser.add_argument(
        '--seconds', type=float, default=570., help='default: 570')
    parser.add_argument('--rank', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.rank:
        rank()
        return
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cpu':
        print('No CUDA GPU here: only the tests on a pretended one are run.')
    result = check(args, device)
    print(f'\n{table(result)}\n\nWritten: {args.out}')
    if result['plan'].keys() >= {'step', 'pipeline'}:
        print('Next: ' + command('benchmarks/plan', '--check', args.out))
    if failed(result):
        sys.exit('Something is not as it should be: see FAILED and ABOVE')


if __name__ == '__main__':
    main()
