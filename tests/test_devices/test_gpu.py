"""On a CUDA GPU alone: it computes what the CPU computes."""
import os.path as osp
import sys

import pytest
import torch

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import gpu_check  # noqa: E402

pytestmark = pytest.mark.gpu


def test_loss_pooling_and_k_means_equal_the_cpus():
    for name, (found, limit) in gpu_check.equal_to_cpu('cuda').items():
        assert found <= limit, name


def test_k_means_and_features_are_the_same_each_time():
    points = torch.randn(9000, 64, generator=torch.Generator().manual_seed(0))
    first, again = (gpu_check.kmeans(points.cuda(), 32, seed=1)[0]
                    for _ in range(2))
    assert torch.equal(first, again)
    network = gpu_check.resnet(18).cuda()
    source = gpu_check.NetworkMasks('layer2.1', num_clusters=9)
    source.prepare(network, gpu_check.SelfSupDataPreprocessor(
        **gpu_check.IMAGENET).cuda())
    images = gpu_check.pictures(3, (120, 160))
    torch.backends.cudnn.benchmark = True
    try:
        maps = [source.label_maps(images, list('abc'), (0, 0, 0))
                for _ in range(2)]
    finally:
        torch.backends.cudnn.benchmark = False
    assert all((one == other).all() for one, other in zip(*maps))


def test_two_processes_on_a_gpu():
    said = gpu_check.two_ranks(100)
    if 'not on one GPU' in said:
        pytest.skip(said)  # as NCCL has it
    assert 'gradients equal' in said
