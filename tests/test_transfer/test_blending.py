"""Weights between start and end, and batch norms recomputed."""
import numpy as np
import pytest
import torch
from mmpretrain.models import MobileNetV2, ResNet

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.start_file import content_hash
from cyborgs_plugin.transfer.blending import blend, recalibrate

from ..helpers import trained


def test_the_average_of_each_tensor():
    start, end = (trained(18, seed).state_dict() for seed in range(2))
    end['bn1.num_batches_tracked'] = torch.tensor(7)
    mixed = blend(start, end, 0.25, 'f.pth', content_hash(start))
    assert [*mixed] == [*end]
    for key, value in mixed.items():
        if key.endswith('num_batches_tracked'):
            assert torch.equal(value, end[key])
            continue
        wanted = 0.75 * start[key].numpy() + 0.25 * end[key].numpy()
        np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-5,
                                   atol=1e-7)
    for share, whole in ((0., start), (1., end)):
        for key, value in blend(start, end, share, 'f.pth').items():
            if value.is_floating_point():
                assert torch.equal(value, whole[key])


def test_what_is_no_start_is_refused():
    start, end, other = (trained(18, seed).state_dict() for seed in range(3))
    with pytest.raises(UserError, match='f.pth is not what the run started'):
        blend(other, end, 0.5, 'f.pth', content_hash(start))
    with pytest.raises(UserError, match='f.pth .*other shapes'):
        blend(trained(50).state_dict(), end, 0.5, 'f.pth')
    with pytest.raises(UserError, match='f.pth .*lacks'):
        blend({'conv1.weight': start['conv1.weight']}, end, 0.5, 'f.pth')
    with pytest.raises(UserError, match='0 to 1'):
        blend(start, end, 1.5, 'f.pth')


def test_the_hash_tells_content_alone():
    one = trained(18).state_dict()
    same = {key: value.clone() for key, value in reversed(one.items())
            if not key.endswith('num_batches_tracked')}
    assert content_hash(one) == content_hash(same)
    same['bn1.bias'][0] += 1e-3
    assert content_hash(one) != content_hash(same)
    same['bn1.bias'] = one['bn1.bias']
    same['bn1.bios'] = same.pop('bn1.bias')
    assert content_hash(one) != content_hash(same)


def batches():
    torch.manual_seed(0)
    return [torch.randn(4, 3, 64, 64) * size for size in (1, 2, 3)]


@pytest.mark.parametrize('options', [{}, dict(norm_eval=True),
                                     dict(frozen_stages=4)])
def test_statistics_of_the_first_norms_equal_a_loop(options):
    """Whatever a backbone leaves in evaluation mode."""
    network = ResNet(18, **options)
    network.load_state_dict(trained(18).state_dict())
    network.train()
    weights = {k: v.clone() for k, v in network.named_parameters()}
    assert recalibrate(network, batches()) == 20
    assert not any(module.training for module in network.modules())
    for key, value in network.named_parameters():
        assert torch.equal(value, weights[key])

    first, second = ([], []), ([], [])
    for images in batches():
        with torch.no_grad():
            inside = network.conv1(images).numpy().astype(np.float64)
            first[0].append(inside.mean((0, 2, 3)))
            first[1].append(inside.var((0, 2, 3), ddof=1))
            # the next one gets what this batch's own statistics give
            mean, var = inside.mean((0, 2, 3)), inside.var((0, 2, 3))
            gain, shift = (tensor.detach().numpy()[:, None, None]
                           for tensor in (network.bn1.weight,
                                          network.bn1.bias))
            normed = ((inside - mean[:, None, None]) / np.sqrt(
                var[:, None, None] + 1e-5) * gain + shift).clip(0)
            pooled = network.maxpool(torch.from_numpy(normed).float())
            inside = network.layer1[0].conv1(pooled).numpy()
            second[0].append(inside.mean((0, 2, 3)))
            second[1].append(inside.var((0, 2, 3), ddof=1))
    for norm, (means, variances) in ((network.bn1, first),
                                     (network.layer1[0].bn1, second)):
        np.testing.assert_allclose(
            norm.running_mean.numpy(), np.mean(means, 0), atol=1e-4)
        np.testing.assert_allclose(
            norm.running_var.numpy(), np.mean(variances, 0), rtol=1e-3)


def test_any_network_with_batch_norms():
    network = MobileNetV2()
    before = network.conv1.bn.running_mean.clone()
    assert recalibrate(network, batches()) == 52
    assert not torch.equal(network.conv1.bn.running_mean, before)
    with pytest.raises(UserError, match='no batch norms'):
        recalibrate(torch.nn.Conv2d(3, 4, 1), batches())
