"""Two gloo ranks compute what one process does on the whole batch."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from cyborgs_plugin.engine import TargetUpdateHook
from cyborgs_plugin.models import MaskContrastiveLoss

from ..helpers import (
    RECIPE,
    fake_batch,
    in_processes,
    model_config,
    random_case,
)

pytestmark = pytest.mark.slow  # starts two processes
CASES = ['few', 'none', 'full']


def case(name, rank):
    """What a rank (None: both, concatenated) gives to the loss."""
    preds, targets, pred_ids, target_ids = random_case(
        CASES.index(name), batch=4, dtype=torch.float32)
    # unequal counts: rank 0 has few regions, or none that matches, or all
    if name == 'few':
        pred_ids = [ids.clone() for ids in pred_ids]
        pred_ids[0][:2, 1:] = -1
        pred_ids[1][0] = -1
    elif name == 'none':
        pred_ids = [torch.where(torch.arange(4)[:, None] < 2, 99, ids)
                    for ids in pred_ids]
    own = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    return [[one.detach()[own] for one in pair]
            for pair in (preds, targets, pred_ids, target_ids)]


def loss_and_gradient(name, rank, local_negatives, wrap=lambda module: module):
    torch.manual_seed(0)
    predictor = wrap(nn.Linear(6, 6))
    views, targets, pred_ids, target_ids = case(name, rank)
    loss = MaskContrastiveLoss(
        temperature=0.2, local_negatives=local_negatives, loss_weight=3.)(
            predictor(torch.stack(views)).unbind(), targets, pred_ids,
            target_ids)
    loss.backward()
    return loss.detach(), [p.grad for p in predictor.parameters()]


def follow_the_target(rank):
    """Four iterations that accumulate to two steps, with the recipe's LARS.

    Returns:
        dict: The target at the start and after each iteration, the online
        weights after each, the checkpoint.
    """
    torch.manual_seed(rank)  # ranks initialise differently
    model = MODELS.build(model_config())
    model.init_weights()
    wrapped = MMDistributedDataParallel(
        model, device_ids=None, broadcast_buffers=False)
    cfg = Config.fromfile(RECIPE).optim_wrapper
    cfg.accumulative_counts = 2
    wrapper = build_optim_wrapper(wrapped, cfg)
    wrapper.initialize_count_status(wrapped, 0, 4)
    runner = SimpleNamespace(model=wrapped, optim_wrapper=wrapper)
    hook = TargetUpdateHook()

    def weights(net):
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    def online():
        return torch.cat([weights(model.backbone), weights(model.neck)])

    hook.before_train(runner)
    history = [(online(), weights(model.target_net))]
    for iteration in range(4):
        wrapped.train_step(fake_batch(2, 32, seed=10 * iteration + rank),
                           wrapper)
        hook.after_train_iter(runner, iteration)
        history.append((online(), weights(model.target_net)))
    return dict(history=history, state_dict=model.state_dict())


def work(rank, folder):
    """Run all of it in a forked process."""
    init_default_scope('mmpretrain')
    results = {(name, local): loss_and_gradient(
        name, rank, local, nn.parallel.DistributedDataParallel)
               for name in CASES for local in (True, False)}
    results['images'] = list(
        DATA_SAMPLERS.build(
            Config.fromfile(RECIPE).train_dataloader.sampler,
            default_args=dict(dataset=range(8))))
    results['target'] = follow_the_target(rank)
    torch.save(results, f'{folder}/rank{rank}.pth')


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    codes, logs = in_processes(
        2, lambda rank: work(rank, folder), folder / 'log')
    assert codes == [0, 0], logs
    return [
        torch.load(folder / f'rank{rank}.pth', weights_only=False)
        for rank in range(2)
    ]


@pytest.mark.parametrize('local_negatives', [True, False])
@pytest.mark.parametrize('name', CASES)
def test_loss_and_gradient_equal_one_process(ranks, name, local_negatives):
    expected, gradients = loss_and_gradient(name, None, local_negatives)
    losses = [rank[name, local_negatives][0] for rank in ranks]
    torch.testing.assert_close(
        sum(losses) / 2, expected, rtol=1e-5, atol=1e-6)
    assert expected > 0
    for rank in ranks:  # averaged by DistributedDataParallel
        torch.testing.assert_close(
            rank[name, local_negatives][1], gradients, rtol=1e-5, atol=1e-6)


def test_the_cases_have_unequal_counts():
    used = [[sum((ids >= 0).sum() for ids in case(name, rank)[2])
             for rank in range(2)] for name in CASES]
    assert all(one != other for one, other in used)


def test_ranks_see_different_images(ranks):
    one, other = (rank['images'] for rank in ranks)
    assert sorted(one + other) == list(range(8)) and len(one) == 4


def test_target_is_equal_on_all_ranks_and_follows_each_step(ranks):
    one, other = (rank['target']['history'] for rank in ranks)
    for (online_1, target_1), (online_2, target_2) in zip(one, other):
        assert torch.equal(online_1, online_2)
        assert torch.equal(target_1, target_2)
    assert torch.equal(*one[0])
    expected = one[0][1]
    for iteration in range(1, 5):
        online, target = one[iteration]
        if iteration % 2:  # gradients are only accumulated
            assert torch.equal(online, one[iteration - 1][0])
        else:
            assert not torch.equal(online, one[iteration - 1][0])
            expected = 0.996 * expected + 0.004 * online
        torch.testing.assert_close(target, expected)


def test_target_of_the_checkpoint(ranks):
    model = MODELS.build(model_config())
    model.load_state_dict(ranks[0]['target']['state_dict'])
    loaded = torch.cat([p.flatten() for p in model.target_net.parameters()])
    assert torch.equal(loaded, ranks[1]['target']['history'][-1][1])
    assert int(model.target_net.steps) == 3  # equalised, then two steps
