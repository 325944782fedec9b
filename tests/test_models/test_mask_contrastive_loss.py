"""The loss against lightly's and against naive loops."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import DetConBLoss

from cyborgs_plugin.models.mask_contrastive_loss import (
    MaskContrastiveLoss,
    mask_contrastive_loss,
)

from ..helpers import random_case


def naive_loss(preds, targets, pred_ids, target_ids, temperature=0.1,
               local_negatives=True):
    """Loops over view, image, region, candidate."""
    preds = [F.normalize(p, dim=-1) for p in preds]
    targets = [F.normalize(t, dim=-1) for t in targets]
    batch, num_regions, _ = preds[0].shape
    total = 0.
    for view in range(2):
        loss, count = preds[view].sum() * 0, 0
        for i in range(batch):
            ids = pred_ids[view][i].tolist()
            for n, region in enumerate(ids):
                if region == -1:
                    continue
                count += 1
                logits, positive = [], []
                for side in (1 - view, view):
                    for j in range(batch):
                        for m in range(num_regions):
                            other = int(target_ids[side][j, m])
                            same = i == j and other == region
                            if other == -1 or (side == view and same):
                                continue
                            if (i == j and not local_negatives and not same):
                                continue
                            logits.append(preds[view][i, n]
                                          @ targets[side][j, m] / temperature)
                            positive.append(same)
                if not any(positive):
                    continue
                logits = torch.stack(logits)
                log_p = logits - logits.logsumexp(0)
                own = log_p[torch.tensor(positive)]
                loss = loss - own.mean() / ids.count(region)
        total = total + loss / max(count, 1)
    return total


@pytest.mark.parametrize('local_negatives', [True, False])
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('seed', range(6))
def test_equals_naive_loops(seed, batch, local_negatives):
    preds, targets, pred_ids, target_ids = random_case(seed, batch)
    if seed == 4:  # ids in one view only
        pred_ids[0] += 100 * (pred_ids[0] >= 0)
    expected = naive_loss(preds, targets, pred_ids, target_ids, 0.2,
                          local_negatives)
    loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids,
                                 0.2, local_negatives)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(loss, preds),
        torch.autograd.grad(expected, preds),
        rtol=1e-8,
        atol=1e-10)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_equals_lightly_where_ids_are_shared(seed, temperature):
    preds, targets, pred_ids, _ = random_case(
        seed, batch=4, unused=False, dtype=torch.float32)
    loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *pred_ids,
                                 temperature)
    expected = DetConBLoss(temperature)(*preds, *targets, *pred_ids)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, preds),
        torch.autograd.grad(expected, preds),
        rtol=1e-5,
        atol=1e-6)


@pytest.mark.parametrize('local_negatives', [True, False])
def test_gradcheck(local_negatives):
    preds, targets, pred_ids, target_ids = random_case(
        0, batch=2, num_regions=4, dim=3)

    def loss(pred_v1, pred_v2):
        return mask_contrastive_loss(
            pred_v1, pred_v2, *targets, *pred_ids, *target_ids,
            local_negatives=local_negatives)

    assert torch.autograd.gradcheck(loss, preds)


@pytest.mark.parametrize('ids', [(1, 2), (-1, 0), (-1, -1)])
def test_no_positive_is_zero_and_connected(ids):
    preds, targets, _, _ = random_case(0)
    pred_ids = [torch.full((3, 5), ids[0])] * 2
    target_ids = [torch.full((3, 5), ids[1])] * 2
    loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, preds):
        assert gradient.abs().sum() == 0


def test_no_gradient_reaches_the_targets():
    preds, targets, pred_ids, target_ids = random_case(0)
    for target in targets:
        target.requires_grad_()
    mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids).backward()
    assert targets[0].grad is None and preds[0].grad.abs().sum() > 0


def test_unused_slots_change_nothing():
    preds, targets, pred_ids, target_ids = random_case(0, unused=False)
    loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)

    def padded(tensor, value):
        return torch.cat([tensor, torch.full_like(tensor[:, :2], value)], 1)

    more = mask_contrastive_loss(*[padded(p, 3.) for p in preds],
                                 *[padded(t, -7.) for t in targets],
                                 *[padded(i, -1) for i in pred_ids],
                                 *[padded(i, -1) for i in target_ids])
    torch.testing.assert_close(loss, more)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31))
def test_order_and_names_mean_nothing(seed):
    """Permuting images, slots or ids changes neither value nor gradient."""
    preds, targets, pred_ids, target_ids = random_case(seed)
    loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)
    images = torch.randperm(3)
    slots = [torch.randperm(5) for _ in range(4)]
    names = torch.cat([torch.randint(2**40, (4, )), torch.tensor([-1])])

    def moved(tensors, slots):
        return [one[images][:, slot] for one, slot in zip(tensors, slots)]

    again = mask_contrastive_loss(
        *moved(preds, slots[:2]), *moved(targets, slots[2:]),
        *moved([names[ids] for ids in pred_ids], slots[:2]),
        *moved([names[ids] for ids in target_ids], slots[2:]))
    torch.testing.assert_close(loss, again)
    torch.testing.assert_close(
        torch.autograd.grad(loss, preds), torch.autograd.grad(again, preds))


def test_shards_of_a_batch_add_up():
    """What each of two ranks computes averages to the whole batch's loss."""
    preds, targets, pred_ids, target_ids = random_case(5, batch=4)
    loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)
    used = torch.stack([(ids >= 0).sum() for ids in pred_ids])
    parts = []
    for rank in range(2):
        own = slice(2 * rank, 2 * rank + 2)
        parts.append(
            mask_contrastive_loss(
                *[p[own] for p in preds],
                *targets,
                *[i[own] for i in pred_ids],
                *target_ids,
                image_offset=2 * rank,
                region_counts=used / 2))
    torch.testing.assert_close(sum(parts) / 2, loss)


def test_hand_computed_value():
    """One image, one region, orthogonal views: every number by hand."""
    pred = torch.tensor([[[1., 0.]]])
    target_1, target_2 = torch.tensor([[[0., 1.]]]), torch.tensor([[[1., 1.]]])
    ids = torch.zeros(1, 1, dtype=torch.int64)
    other = torch.tensor([[[2., 0.]]])  # a second image, id 0 as well
    loss = mask_contrastive_loss(
        torch.cat([pred, other]), torch.cat([pred, other]),
        torch.cat([target_1, target_1]), torch.cat([target_2, target_2]),
        *[torch.cat([ids, ids])] * 4)
    # view 1: positive cos 45 deg, negatives: the same again and one at 90 deg
    c = math.sqrt(0.5) / 0.1
    one = math.log(2 * math.exp(c) + 1) - c
    # view 2: positive at 90 deg, negatives: the same and one at 45 deg
    two = math.log(2 + math.exp(c))
    assert loss.item() == pytest.approx(one + two, rel=1e-5)


@pytest.mark.parametrize('scale', [1e-3, 1e3])
def test_cosines_not_products(scale):
    preds, targets, pred_ids, target_ids = random_case(7)
    loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)
    scaled = mask_contrastive_loss(*[scale * one for one in preds + targets],
                                   *pred_ids, *target_ids)
    torch.testing.assert_close(loss, scaled)


def test_half_precision_is_computed_in_float32():
    preds, targets, pred_ids, target_ids = random_case(1, dtype=torch.float32)
    expected = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss, preds),
        torch.autograd.grad(expected, preds),
        rtol=1e-5,
        atol=1e-6)
    halves = [one.bfloat16() for one in preds + targets]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = mask_contrastive_loss(*halves, *pred_ids, *target_ids)
        module = MaskContrastiveLoss()(halves[:2], halves[2:], pred_ids,
                                       target_ids)
    expected = mask_contrastive_loss(*[half.float() for half in halves],
                                     *pred_ids, *target_ids)
    assert loss.dtype == module.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(module, expected, rtol=1e-6, atol=1e-6)


def test_no_matrix_of_logits_is_kept():
    """What autograd keeps is no larger than predictions and targets."""
    preds, targets, pred_ids, target_ids = random_case(
        0, batch=4, num_regions=8, dim=2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor,
            lambda tensor: tensor):
        mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids)
    # a matrix of logits holds (4 * 8) * (2 * 4 * 8); own images 4 * 8 * 8
    assert 0 < max(kept) <= 4 * 8 * 8


def test_module_equals_function():
    preds, targets, pred_ids, target_ids = random_case(2, dtype=torch.float32)
    loss = MaskContrastiveLoss(temperature=0.3, loss_weight=2.)(
        preds, targets, pred_ids, target_ids)
    expected = mask_contrastive_loss(*preds, *targets, *pred_ids, *target_ids,
                                     0.3)
    torch.testing.assert_close(loss, 2 * expected)


@pytest.mark.parametrize('local_negatives', [True, False])
@pytest.mark.parametrize('seed', range(3))
def test_chance_is_the_loss_of_vectors_all_the_same(seed, local_negatives):
    preds, targets, pred_ids, target_ids = random_case(
        seed, dtype=torch.float32)
    module = MaskContrastiveLoss(
        local_negatives=local_negatives, loss_weight=0.5)
    same = [torch.ones_like(one) for one in (*preds, *targets)]
    loss = module(same[:2], same[2:], pred_ids, target_ids)
    assert loss > 0.5
    assert module.chance_level(pred_ids, target_ids).item() == pytest.approx(
        loss.item(), rel=1e-5)


def test_chance_of_nothing_that_matches():
    ids = [torch.zeros(2, 3, dtype=torch.long)] * 2
    others = [torch.ones(2, 3, dtype=torch.long)] * 2
    assert MaskContrastiveLoss().chance_level(ids, others) == 0
