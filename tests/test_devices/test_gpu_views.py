"""On a CUDA GPU alone: views are the CPU's, and the host waits for none."""
import pytest
import torch

from cyborgs_plugin.ops.batch_views import batched

from ..test_ops.test_batch_views import SIZES, held

pytestmark = pytest.mark.gpu


def test_views_equal_the_cpus_without_a_wait():
    _, _, pixels, labels, drawn = held(SIZES * 4)
    expected, maps = batched(pixels, labels, [drawn, drawn])
    pixels, labels = pixels.cuda(), labels.cuda()
    batched(pixels, labels, [drawn])  # loads kernels
    torch.cuda.set_sync_debug_mode('error')
    try:
        views, found = batched(pixels, labels, [drawn, drawn])
    finally:
        torch.cuda.set_sync_debug_mode('default')
    for one, two in zip(views, expected):
        off = (one.cpu().int() - two.int()).abs().float()
        assert off.mean() < 0.1 and (off <= 2).float().mean() > 0.99
    for one, two in zip(found, maps):
        assert torch.equal(one.cpu(), two)
