"""Ranks that are not alike: other regions, or an error on one of them."""
import os
import socket
import subprocess
import time

import pytest
import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from ..helpers import (
    RECIPE,
    ROOT,
    TOY,
    fake_batch,
    in_processes,
    model_config,
    small,
)
from ..warm_python import python

FAULTS = """
import os
import cyborgs_plugin
from cyborgs_plugin.datasets import SceneDataset
from cyborgs_plugin.models import CYBORGS
from cyborgs_plugin.segmentation import NetworkMasks

PLACES = dict(round=(NetworkMasks, 'label_maps', 1), loss=(CYBORGS, 'loss', 2),
              loader=(SceneDataset, 'prepare_data', 4))
kind, name, nth = PLACES[os.environ['FAULT']]
original, calls = getattr(kind, name), []


def faulty(self, *args, **kwargs):
    calls.append(0)
    if len(calls) >= nth and os.environ['RANK'] == '1':
        raise RuntimeError('the fault of rank 1')
    return original(self, *args, **kwargs)


setattr(kind, name, faulty)
"""


@pytest.mark.slow
@pytest.mark.parametrize('place, processes', [
    ('round', 3), ('loss', 3), ('loader', 2)])
def test_an_error_on_one_rank_ends_all(photo_root, tmp_path, place,
                                       processes):
    """Each started by itself, as by slurm: no torchrun ends the others."""
    (tmp_path / 'faults.py').write_text(FAULTS)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [python(), os.path.join(ROOT, 'tools', 'train.py'), TOY,
               *small(photo_root, tmp_path / 'w', 3,
                      'custom_imports.imports=[faults]',
                      'default_hooks.mask_update.group_size=2',
                      'train_dataloader.batch_size=2',
                      'train_dataloader.num_workers=1'),
               '--launcher', 'pytorch']
    start, running = time.monotonic(), []
    try:
        for rank in range(processes):
            environment = dict(
                os.environ, FAULT=place, RANK=str(rank), LOCAL_RANK=str(rank),
                WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
                PYTHONPATH=f'{tmp_path}:{ROOT}', OMP_NUM_THREADS='1')
            log = open(tmp_path / f'{rank}.log', 'w')
            running.append(subprocess.Popen(
                command, env=environment, stdout=log, stderr=log))
        for process in running:
            process.wait(max(1, 180 - (time.monotonic() - start)))
    finally:
        for process in running:
            process.kill()
    logs = [(tmp_path / f'{rank}.log').read_text()
            for rank in range(processes)]
    assert all(process.returncode for process in running)
    told = logs if place == 'round' else logs[1:2]
    assert all('the fault of rank 1' in log for log in told), logs[0][-2000:]


def batch_of(rank, processes):
    """Rank 0 has a region of each image, rank 1 none in both views, others
    many."""
    data = fake_batch(batch=2, seed=rank)
    for sample in data['data_samples']:
        if rank == 0:
            sample.mask[:] = 0
        elif rank == 1:
            sample.mask[0], sample.mask[1] = 0, 1
    return data


@pytest.mark.slow
def test_ranks_with_other_numbers_of_regions(tmp_path, processes=3):
    """Also none: each rank takes part in all that the ranks do together."""
    def step(rank):
        torch.manual_seed(0)
        config = model_config()
        config.data_preprocessor = dict(
            type='SelfSupDataPreprocessor', mean=(124, 116, 104),
            std=(58, 57, 57), to_rgb=True)
        model = MODELS.build(config)
        model.init_weights()
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
        for _ in range(2):
            model.zero_grad()
            data = model.module.data_preprocessor(
                batch_of(rank, processes), True)
            losses = model(**data, mode='loss')
            loss = sum(value for name, value in losses.items()
                       if 'loss' in name)
            assert torch.isfinite(loss), loss
            loss.backward()
        total = sum(parameter.grad.square().sum()
                    for parameter in model.parameters()
                    if parameter.grad is not None).reshape(1)
        assert torch.isfinite(total) and total > 0
        totals = [torch.zeros(1) for _ in range(processes)]
        torch_dist.all_gather(totals, total)
        assert all(torch.equal(total, other) for other in totals), totals

    codes, logs = in_processes(processes, step, tmp_path / 'log')
    assert codes == [0] * processes, logs


def test_one_image_of_one_region_fills_a_batch_norm():
    """Slots that hold no region repeat one: SyncBN and BN see several rows
    whatever the masks are, of which they want two."""
    config = model_config()
    model = MODELS.build(config)
    model.init_weights()
    data = fake_batch(batch=1)
    data['data_samples'][0].mask[:] = 3
    rows = []
    for norm in [*model.neck.modules(), *model.head.modules()]:
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.register_forward_pre_hook(
                lambda module, inputs: rows.append(len(inputs[0])))
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    assert rows and min(rows) >= 2, rows
    assert all(torch.isfinite(value).all() for value in losses.values()
               if isinstance(value, torch.Tensor))


@pytest.mark.slow
def test_ranks_train_without_the_last_stage(tmp_path):
    """Its parameters get no gradient, for which DDP would wait."""
    def step(rank):
        torch.manual_seed(0)
        init_default_scope('mmpretrain')
        config = model_config()
        config.neck.in_indices = (0, 1)
        config.neck.projector.in_channels = 384
        model = MODELS.build(config)
        model.init_weights()
        unused = {name for name, parameter in model.backbone.named_parameters()
                  if not parameter.requires_grad}
        assert unused == {name for name, _ in model.backbone.named_parameters()
                          if name.startswith('layer4.')}
        before = model.backbone.layer4[0].conv1.weight.clone()
        model.update_target()
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
        wrapper = build_optim_wrapper(
            model, Config.fromfile(RECIPE).optim_wrapper)
        for seed in range(3):
            model.train_step(fake_batch(batch=2, seed=2 * seed + rank),
                             wrapper)
            model.module.update_target()
        weights = dict(model.module.backbone.named_parameters())
        assert torch.equal(weights['layer4.0.conv1.weight'], before)
        own = weights['layer3.0.conv1.weight'].detach()
        assert not torch.equal(own, torch.zeros_like(own))
        others = [torch.zeros_like(own) for _ in range(2)]
        torch_dist.all_gather(others, own.contiguous())
        assert torch.equal(*others)

    codes, logs = in_processes(2, step, tmp_path / 'log', waits=120)
    assert codes == [0, 0], logs
    assert 'model.neck.in_indices=(0, 1): 15 parameters' in logs[0], logs
