"""The contrastive loss between regions (DetCon-B)."""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def mask_contrastive_loss(pred_v1: Tensor,
                          pred_v2: Tensor,
                          target_v1: Tensor,
                          target_v2: Tensor,
                          pred_ids_v1: Tensor,
                          pred_ids_v2: Tensor,
                          target_ids_v1: Tensor,
                          target_ids_v2: Tensor,
                          temperature: float = 0.1,
                          local_negatives: bool = True,
                          image_offset: int = 0,
                          region_counts: Tensor | None = None) -> Tensor:
    r"""Contrast predicted regions with the target regions of a batch.

    For a prediction :math:`p` of region :math:`m` in view 1 of image
    :math:`i`, the candidates are the target regions of both views of every
    image, except those of view 1 of image :math:`i` with the id :math:`m`. The
    label is uniform over the target regions of view 2 of image :math:`i` with
    the id :math:`m`. A prediction without such a region has weight 0; any
    other has weight 1 / (number of predictions of its image and view with its
    id). The weighted cross-entropies are averaged over all used predictions.
    View 2 is treated in the same way, and both means are added. Gradients flow
    only through the predictions.

    Source: DetCon, `Efficient Visual Pretraining with Contrastive Detection
    <https://arxiv.org/abs/2103.10957>`_, Eq. 3, as used by CYBORGS,
    Sec. 3.2.

    Args:
        pred_v1 (Tensor): Online predictions of view 1, shape (B, N, D).
            Predictions and targets are L2-normalised here; half precision is
            converted to float32.
        pred_v2 (Tensor): The same for view 2, shape (B, N, D).
        target_v1 (Tensor): Target projections of view 1, shape (T, N, D).
            T equals B, or the number of images of all ranks.
        target_v2 (Tensor): The same for view 2, shape (T, N, D).
        pred_ids_v1 (Tensor): Region ids of ``pred_v1``, shape (B, N), integer.
            -1 marks an unused slot, which is neither positive nor negative and
            is not counted.
        pred_ids_v2 (Tensor): Ids of ``pred_v2``, shape (B, N).
        target_ids_v1 (Tensor): Ids of ``target_v1``, shape (T, N).
        target_ids_v2 (Tensor): Ids of ``target_v2``, shape (T, N).
        temperature (float): Divides the cosine similarities.
            Defaults to 0.1.
        local_negatives (bool): Whether regions with other ids in the same
            image are negatives. Defaults to True.
        image_offset (int): Position of the first predicted image among the T
            target images. Defaults to 0.
        region_counts (Tensor, optional): The two denominators, shape (2, ).
            Defaults to None, the numbers of used predictions.

    Returns:
        Tensor: The loss, a scalar. If nothing matches, it is 0 and still
        connected to the graph.
    """
    # The loss is a float32 island: logits / 0.1 exceed bfloat16's precision.
    with torch.autocast(pred_v1.device.type, enabled=False):
        targets = _unit(torch.stack([target_v1, target_v2]).detach())
        target_ids = torch.stack([target_ids_v1, target_ids_v2])
        totals = [
            _one_way(view, _unit(pred), pred_ids, targets, target_ids,
                     temperature, local_negatives, image_offset)
            for view, pred, pred_ids in ((0, pred_v1, pred_ids_v1),
                                         (1, pred_v2, pred_ids_v2))
        ]
        if region_counts is None:
            region_counts = count_regions(pred_ids_v1, pred_ids_v2)
        return (torch.stack(totals) / region_counts.clamp(min=1)).sum()


def count_regions(*region_ids: Tensor) -> Tensor:
    """Count the used slots of each id list.

    Args:
        *region_ids (Tensor): Any number V of integer tensors; -1 is unused.

    Returns:
        Tensor: Shape (V, ), float32.
    """
    return torch.stack([(ids >= 0).sum() for ids in region_ids]).float()


def same_region(ids: Tensor, other_ids: Tensor) -> Tensor:
    """Find the slots of two id lists that hold the same region.

    Args:
        ids (Tensor): Region ids, shape (B, N), -1 where unused.
        other_ids (Tensor): Region ids, shape (B, M), -1 where unused.

    Returns:
        Tensor: Shape (B, N, M), bool; never True for an unused slot.
    """
    same = ids[:, :, None] == other_ids[:, None, :]
    return same & (ids >= 0)[:, :, None]


def count_matches(region_ids: Sequence[Tensor],
                  target_ids: Sequence[Tensor]) -> dict[str, Tensor]:
    """Count the regions that explain the contrastive loss.

    Args:
        region_ids (Sequence[Tensor]): Region ids (B, N) of views 1 and 2, -1
            where unused.
        target_ids (Sequence[Tensor]): Ids of the target, in the same form.

    Returns:
        dict[str, Tensor]: Scalars: ``num_regions`` (used slots per image and
        view), ``matched_regions`` (fraction of the used slots with a partner
        in the target's other view) and ``unmatched_images`` (images without
        any such slot).
    """
    matched = torch.stack([
        same_region(region_ids[view], target_ids[1 - view]).any(dim=-1)
        for view in range(2)
    ])
    used = count_regions(*region_ids).sum()
    return dict(
        num_regions=used / (2 * len(region_ids[0])),
        matched_regions=matched.sum().float() / used.clamp(min=1),
        unmatched_images=(~matched.any(dim=-1).any(dim=0)).sum().float())


def chance_level(pred_ids: Sequence[Tensor],
                 target_ids: Sequence[Tensor],
                 local_negatives: bool = True,
                 world_size: int = 1) -> Tensor:
    """What the loss is where all candidates look alike.

    That is the logarithm of the number of candidates, weighted over the
    predictions as :func:`mask_contrastive_loss` does and added over the two
    views: a network that tells nothing apart has this loss.

    Args:
        pred_ids (Sequence[Tensor]): Ids of the predictions of views 1 and 2,
            each (B, N), -1 where unused.
        target_ids (Sequence[Tensor]): The target's of the same images,
            likewise.
        local_negatives (bool): See :func:`mask_contrastive_loss`.
            Defaults to True.
        world_size (int): How many times as many candidates there are: the
            other ranks are taken to have as many as this one, so that they
            need not be asked. Defaults to 1.

    Returns:
        Tensor: A scalar, float32.
    """
    used = [(ids >= 0).sum() for ids in target_ids]
    levels = []
    for view, (own, other) in enumerate((target_ids, target_ids[::-1])):
        ids = pred_ids[view]
        matches = same_region(ids, other).sum(dim=-1)  # (B, N)
        removed = same_region(ids, own).sum(dim=-1)  # (B, N)
        if not local_negatives:  # all of the image but the matches
            present = ((own >= 0).sum(dim=1) + (other >= 0).sum(dim=1))
            removed = present[:, None] - matches
        number = world_size * (used[0] + used[1]) - removed
        copies = same_region(ids, ids).sum(dim=-1).clamp(min=1)
        weight = (matches > 0) / copies
        count = count_regions(ids).clamp(min=1)
        levels.append((weight * number.clamp(min=1).log()).sum() / count)
    return torch.cat(levels).sum()


def _unit(vectors: Tensor) -> Tensor:
    """L2-normalise the last axis, at least in float32."""
    if vectors.dtype in (torch.float16, torch.bfloat16):
        vectors = vectors.float()
    return F.normalize(vectors, dim=-1)


def _one_way(view: int, pred: Tensor, pred_ids: Tensor, targets: Tensor,
             target_ids: Tensor, temperature: float, local_negatives: bool,
             image_offset: int) -> Tensor:
    """Sum the weighted cross-entropies of one view's predictions.

    Args:
        view (int): The view of the predictions, 0 or 1.
        pred (Tensor): Unit predictions, shape (B, N, D).
        pred_ids (Tensor): Shape (B, N).
        targets (Tensor): Unit targets of both views, shape (2, T, N, D).
        target_ids (Tensor): Shape (2, T, N).
        temperature (float): Divides the similarities.
        local_negatives (bool): See :func:`mask_contrastive_loss`.
        image_offset (int): See :func:`mask_contrastive_loss`.

    Returns:
        Tensor: The sum, a scalar.
    """
    batch = len(pred)
    own = slice(image_offset, image_offset + batch)
    # Only regions of one image can match: that needs no (B, N, T, N).
    positive = same_region(pred_ids, target_ids[1 - view, own])  # (B, N, N)
    # The target's region with the same pixels is not a candidate: it is too
    # easy as a positive and too similar as a negative.
    removed = [torch.zeros_like(positive)] * 2
    removed[view] = same_region(pred_ids, target_ids[view, own])
    if not local_negatives:
        removed[view] = torch.ones_like(positive)
        removed[1 - view] = ~positive

    # Candidates hidden from a prediction, (B, N, 2, T, N): unused slots of any
    # image, and the removed ones of its own image.
    hidden = (target_ids < 0).expand(*pred_ids.shape, -1, -1, -1).clone()
    image = torch.arange(batch, device=pred.device)
    # The two indices pick the diagonal, (B, N, 2, N).
    hidden[image, :, :, image + image_offset] |= torch.stack(removed, dim=2)
    pred = pred / temperature
    log_total = _LogSumExp.apply(
        pred.flatten(0, 1),  # (B * N, D)
        targets.flatten(0, 2),  # (2 * T * N, D)
        hidden.flatten(2).flatten(0, 1)).view_as(pred_ids)  # (B, N)

    # Against a uniform label the cross-entropy is the log-sum-exp less the
    # mean positive logit, so that dense labels are never made.
    matches = positive.sum(dim=-1)  # (B, N)
    logits = pred @ targets[1 - view, own].transpose(1, 2)  # (B, N, N)
    matched = (logits * positive).sum(dim=-1) / matches.clamp(min=1)
    # A region that was drawn several times counts once.
    copies = same_region(pred_ids, pred_ids).sum(dim=-1).clamp(min=1)
    weight = (matches > 0).to(log_total.dtype) / copies  # (B, N)
    return ((log_total - matched) * weight).sum()


class _LogSumExp(torch.autograd.Function):
    """Log-sum-exp of the logits of each prediction.

    Its gradient is the mean candidate under the softmax, which is as small as
    the prediction. So the gradient is kept, and the matrix of logits, changed
    in place, is freed at once.
    """

    @staticmethod
    def forward(ctx: Any, pred: Tensor, candidates: Tensor,
                hidden: Tensor) -> Tensor:
        """Compute the log-sum-exp (M, ) and its gradient.

        Args:
            ctx (Any): Autograd's context, which keeps the gradient.
            pred (Tensor): Predictions over temperature, shape (M, D).
            candidates (Tensor): Unit candidates, shape (K, D).
            hidden (Tensor): Candidates to leave out, shape (M, K), bool.

        Returns:
            Tensor: Shape (M, ); finite even if all candidates are hidden.
        """
        logits = pred @ candidates.T  # (M, K)
        # Not -inf, since a row without any candidate would then be NaN.
        logits.masked_fill_(hidden, torch.finfo(logits.dtype).min / 4)
        highest = logits.amax(dim=1, keepdim=True)  # (M, 1)
        softmax = logits.sub_(highest).exp_()
        total = softmax.sum(dim=1, keepdim=True)
        ctx.save_for_backward(softmax @ candidates / total)
        return (highest + total.log()).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the predictions, shape (M, D)."""
        mean_candidate, = ctx.saved_tensors
        return grad[:, None] * mean_candidate, None, None


@MODELS.register_module()
class MaskContrastiveLoss(nn.Module):
    """DetCon-B over the global batch.

    Targets and their ids are gathered from all ranks, and the denominators are
    those of the global batch. After gradients are averaged, N ranks therefore
    compute what one process computes on the concatenated batch. Every rank
    must have the same number of images (``drop_last=True``).

    Args:
        temperature (float): Divides the cosine similarities.
            Defaults to 0.1.
        local_negatives (bool): Whether regions with other ids in the same
            image are negatives. Defaults to True.
        loss_weight (float): Factor of the loss. Defaults to 1.0.
    """

    def __init__(self,
                 temperature: float = 0.1,
                 local_negatives: bool = True,
                 loss_weight: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.local_negatives = local_negatives
        self.loss_weight = loss_weight

    def forward(self, preds: tuple[Tensor, Tensor],
                targets: tuple[Tensor, Tensor], pred_ids: tuple[Tensor,
                                                                Tensor],
                target_ids: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the loss of this rank's predictions.

        Args:
            preds (tuple[Tensor, Tensor]): Predictions of views 1 and 2, each
                (B, N, D).
            targets (tuple[Tensor, Tensor]): Target projections of views 1 and
                2, each (B, N, D).
            pred_ids (tuple[Tensor, Tensor]): Ids of the predictions, each
                (B, N), int64.
            target_ids (tuple[Tensor, Tensor]): Ids of the targets, each
                (B, N).

        Returns:
            Tensor: The loss, a scalar.
        """
        batch = len(preds[0])
        both = torch.stack(targets, dim=1).float()  # (B, 2, N, D)
        both_ids = torch.stack(target_ids, dim=1)  # (B, 2, N)
        both = torch.cat(all_gather(both))  # (W * B, 2, N, D)
        both_ids = torch.cat(all_gather(both_ids))  # (W * B, 2, N)
        # Their mean, not their sum: DDP divides the gradients by W again.
        region_counts = count_regions(*pred_ids)
        all_reduce(region_counts, op='mean')
        loss = mask_contrastive_loss(
            preds[0],
            preds[1],
            both[:, 0],
            both[:, 1],
            pred_ids[0],
            pred_ids[1],
            both_ids[:, 0],
            both_ids[:, 1],
            temperature=self.temperature,
            local_negatives=self.local_negatives,
            image_offset=get_rank() * batch,
            region_counts=region_counts)
        return self.loss_weight * loss

    def chance_level(self, pred_ids: Sequence[Tensor],
                     target_ids: Sequence[Tensor]) -> Tensor:
        """The loss of a network that tells nothing apart.

        Args:
            pred_ids (Sequence[Tensor]): As for :meth:`forward`.
            target_ids (Sequence[Tensor]): Likewise.

        Returns:
            Tensor: See :func:`chance_level`; times the weight of the loss.
        """
        return self.loss_weight * chance_level(
            pred_ids, target_ids, self.local_negatives, get_world_size())
