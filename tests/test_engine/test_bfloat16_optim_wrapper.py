"""bfloat16 in the forward alone, on a CPU."""
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import nn

from cyborgs_plugin.engine import BFloat16OptimWrapper


def test_forward_in_bfloat16_weights_in_float32():
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    start = model.weight.detach().clone()
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='BFloat16OptimWrapper',
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1)))
    assert isinstance(wrapper, BFloat16OptimWrapper)
    inputs = torch.randn(16, 8)
    with wrapper.optim_context(model):
        output = model(inputs)
    assert output.dtype == torch.bfloat16
    assert model(inputs).dtype == torch.float32  # it ends with the context
    wrapper.update_params(output.float().pow(2).mean())
    assert model.weight.dtype == torch.float32
    assert (model.weight - start).abs().max() > 1e-3


def test_step_is_near_that_of_float32():
    steps = []
    for kind in (BFloat16OptimWrapper, None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs = torch.randn(64, 8)
        before = model[0].weight.detach().clone()
        if kind:
            wrapper = kind(optimizer=optimizer)
            with wrapper.optim_context(model):
                loss = model(inputs).float().pow(2).mean()
            wrapper.update_params(loss)
        else:
            model(inputs).pow(2).mean().backward()
            optimizer.step()
        steps.append(model[0].weight.detach() - before)
    assert not torch.equal(*steps)  # it did run in bfloat16
    torch.testing.assert_close(*steps, rtol=0.05, atol=1e-4)
