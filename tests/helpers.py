"""What tests of several folders share: pictures, networks, small runs."""
import glob
import multiprocessing
import os
import os.path as osp
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.models import ResNet, SelfSupDataPreprocessor
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from cyborgs_plugin.datasets import SceneDataset
from cyborgs_plugin.segmentation import MaskSource, NetworkMasks

from .warm_python import python

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))

sys.path.insert(0, osp.join(ROOT, 'tools', 'model_converters'))
import publish_backbone  # noqa: E402

TOY = osp.join(ROOT, 'configs', 'cyborgs_toy.py')
RECIPE = osp.join(ROOT, 'configs', 'cyborgs_coco.py')
LINEAR = osp.join(ROOT, 'configs', 'transfer',
                  'resnet50_cyborgs-pre_linear_imagenet.py')
IMAGENET = SelfSupDataPreprocessor(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
PER_EPOCH = 5


def write_photo(path, size=(48, 64), seed=0):
    """Write a smooth random picture and return its BGR pixels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return image


def model_config():
    cfg = Config.fromfile(RECIPE).model
    cfg.backbone.depth = 18
    cfg.neck.projector.update(
        in_channels=896, hid_channels=16, out_channels=8)
    cfg.head.predictor.update(in_channels=8, hid_channels=16, out_channels=8)
    cfg.neck.update(grid_stride=16, num_regions=6)
    return cfg


def fake_batch(batch=3, size=64, num_ids=7, seed=0):
    torch.manual_seed(seed)
    data = dict(
        inputs=[
            torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
            for _ in range(2)
        ],
        data_samples=[])
    for _ in range(batch):
        coarse = torch.randint(num_ids, (2, 4, 4), dtype=torch.uint8)
        sample = DataSample()
        sample.set_mask(
            coarse.repeat_interleave(size // 4, 1).repeat_interleave(
                size // 4, 2))
        data['data_samples'].append(sample)
    return data


def random_case(seed, batch=3, num_regions=5, dim=6, num_ids=4, unused=True,
                dtype=torch.float64):
    torch.manual_seed(seed)
    shape = (batch, num_regions)
    low = -1 if unused else 0
    preds = [
        torch.randn(*shape, dim, dtype=dtype, requires_grad=True)
        for _ in range(2)
    ]
    targets = [torch.randn(*shape, dim, dtype=dtype) for _ in range(2)]
    ids = [torch.randint(low, num_ids, shape) for _ in range(4)]
    return preds, targets, ids[:2], ids[2:]


def network(seed=0):
    torch.manual_seed(seed)
    model = ResNet(18)
    model.init_weights()
    return model


def network_masks(**kwargs):
    kwargs = dict(layer='layer2.1', num_clusters=(2, 9)) | kwargs
    source = NetworkMasks(**kwargs)
    source.prepare(network(), IMAGENET)
    return source


def images_of(photo_root):
    return SceneDataset(
        data_root=str(photo_root),
        data_prefix=dict(img_path='train2017/')).images()


def whole_forward(model, layer, image):
    """One image through the whole network, with a hook."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: kept.append(output))
    model.eval()
    mean = torch.tensor([123.675, 116.28, 103.53])
    std = torch.tensor([58.395, 57.12, 57.375])
    rgb = torch.from_numpy(image[..., ::-1].copy()).float()
    with torch.no_grad():
        model(((rgb - mean) / std).permute(2, 0, 1)[None])
    handle.remove()
    return F.normalize(kept[0], dim=1)[0].permute(1, 2, 0)


class FewZeros(Dataset):

    def __len__(self):
        return PER_EPOCH

    def __getitem__(self, index):
        return torch.zeros(1)


class OneWeight(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.weight.sum())


def trained(depth, seed=0):
    """A network none of whose tensors is what a fresh one has."""
    torch.manual_seed(seed)
    network = ResNet(depth)
    for name, value in network.state_dict().items():
        if name.endswith('running_var') or 'bn' in name and (
                name.endswith('weight')):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.normal_(std=0.1)
    network.eval()  # mmpretrain's gives nothing back
    return network


def checkpoint(path, depth=18, **more):
    """A checkpoint as mmengine writes it, with its log."""
    online, target = trained(depth), trained(depth, seed=1)
    state = {f'backbone.{k}': v for k, v in online.state_dict().items()}
    state.update((f'target_net.module.0.{k}', v)
                 for k, v in target.state_dict().items())
    state['neck.x'] = torch.ones(1)
    torch.save(
        dict(
            state_dict=state,
            meta=dict(epoch=3, iter=9, seed=5, cfg='model = dict()'),
            message_hub=dict(
                log_scalars=dict(loss=HistoryBuffer([1., 2.], [1, 1])),
                runtime_info=dict(mask_round=2)),
            **more), path)
    return dict(online=online, target=target)


def call_main(tool, *arguments):
    """As the fixture `call` does, for fixtures that tests share."""
    with mock.patch.object(sys, 'argv', ['tool', *map(str, arguments)]):
        tool.main()


def published(folder, depth, call=call_main):
    checkpoint(folder / 'epoch_3.pth', depth)
    call(publish_backbone, folder / 'epoch_3.pth', '--out-dir', folder)
    file, = glob.glob(str(folder / '*-backbone-????????.pth'))
    return file


def run_train(arguments, launcher=(), check=True):
    """Run tools/train.py on a toy config, small."""
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([ROOT, os.environ.get('PYTHONPATH', '')]),
        OMP_NUM_THREADS='1')
    done = subprocess.run(
        [python(), *launcher, osp.join(ROOT, 'tools', 'train.py'), TOY,
         *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        timeout=600)
    assert not check or done.returncode == 0, done.stdout[-6000:]
    return done


def small(photo_root, work_dir, epochs, *options):
    return [
        '--work-dir', str(work_dir), '--cfg-options',
        f'data_root={photo_root}/', 'train_dataloader.batch_size=3',
        f'train_cfg.max_epochs={epochs}',
        'default_hooks.mask_update.interval=1',
        'default_hooks.mask_update.source.long_side=None',
        'train_dataloader.dataset.pipeline.1.transforms.0.0.scale=32',
        'train_dataloader.dataset.pipeline.1.transforms.1.0.scale=32', *options
    ]


def small_config(photo_root, work_dir, **options):
    """A toy run of a narrow ResNet-18 on 12 pictures, 3 batches an epoch."""
    cfg = Config.fromfile(TOY)
    pipeline = cfg.train_dataloader.dataset.pipeline
    for view in pipeline[1].transforms:
        view[0].scale = 32
    cfg.model.backbone.update(base_channels=16, stem_channels=16)
    cfg.model.neck.projector.update(in_channels=224, hid_channels=32)
    cfg.model.head.predictor.update(hid_channels=32)
    # pictures of 64 pixels as they are; of so few superpixels, cells instead
    source = cfg.default_hooks.mask_update.source
    source.update(long_side=None, smooth=8)
    for option in ('superpixels', 'colour_weight', 'position_weight'):
        source.pop(option)
    cfg.merge_from_dict({
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.dataset.data_root': str(photo_root),
        'train_cfg.max_epochs': 3,
        'default_hooks.mask_update.interval': 1,
        'default_hooks.logger.interval': 1,
        'custom_hooks': [],
        'work_dir': str(work_dir),
        'experiment_name': str(work_dir),
        **options
    })
    return cfg


def small_run(*args, **options):
    return Runner.from_cfg(small_config(*args, **options))


class FixedMasks(MaskSource):
    """Maps as given, one for each key."""

    def __init__(self, maps):
        self.maps = maps
        self.num_clusterings = 1 if maps[0].ndim == 2 else len(maps[0])

    def label_maps(self, images, keys, seed):
        return [self.maps[int(key[-6:-4])] for key in keys]


def random_maps(seed, size=(6, 8), ids=5, num=12):
    random = np.random.default_rng(seed)
    return [random.integers(0, ids, size) for _ in range(num)]


def in_processes(world_size, function, log, waits=120):
    """Run a function in forked processes that talk by gloo."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]

    def child(rank):
        sys.stdout = sys.stderr = open(f'{log}.{rank}', 'w')
        torch.set_num_threads(1)  # the threads of the parent are not here
        cv2.setNumThreads(0)
        try:
            torch_dist.init_process_group(
                'gloo', f'tcp://127.0.0.1:{port}', rank=rank,
                world_size=world_size)
            function(rank)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    children = [
        multiprocessing.get_context('fork').Process(target=child, args=(rank,))
        for rank in range(world_size)
    ]
    for process in children:
        process.start()
    end = time.monotonic() + waits
    for process in children:
        process.join(max(0, end - time.monotonic()))
    codes = [process.exitcode for process in children]
    for process in children:
        process.kill()
    return codes, [Path(f'{log}.{rank}').read_text()
                   for rank in range(world_size)]
