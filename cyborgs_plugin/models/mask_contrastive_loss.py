"""The contrastive loss between regions (DetCon-B)."""
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_reduce, get_rank
from mmpretrain.registry import MODELS
from torch import Tensor, nn


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
                          region_counts: Optional[Tensor] = None) -> Tensor:
    r"""Contrast each predicted region with the target regions of a batch.

    For a prediction :math:`p` of region :math:`m` in view 1 of image
    :math:`i`, the candidates are the target regions of both views of every
    image, save those of view 1 of image :math:`i` that carry the id
    :math:`m`. The label is uniform over the target regions of view 2 of image
    :math:`i` with the id :math:`m`. A prediction without such a region has
    weight 0, any other 1 / (number of predictions of its image and view with
    its id). The weighted cross-entropies are averaged over all used
    predictions; view 2 is treated alike and both means are added. Gradients
    flow through the predictions only.

    Source: DetCon, `Efficient Visual Pretraining with Contrastive Detection
    <https://arxiv.org/abs/2103.10957>`_, Eq. 3, as used by CYBORGS,
    Sec. 3.2.

    Args:
        pred_v1 (Tensor): Online predictions of view 1, shape (B, N, D). They
            and the targets are L2-normalised here. Half precision is computed
            in float32.
        pred_v2 (Tensor): Those of view 2, shape (B, N, D).
        target_v1 (Tensor): Target projections of view 1, shape (T, N, D).
            T equals B, or the number of images of all ranks.
        target_v2 (Tensor): Those of view 2, shape (T, N, D).
        pred_ids_v1 (Tensor): Region ids of ``pred_v1``, shape (B, N),
            integer. -1 marks an unused slot: neither positive nor negative
            nor counted.
        pred_ids_v2 (Tensor): Those of ``pred_v2``, shape (B, N).
        target_ids_v1 (Tensor): Those of ``target_v1``, shape (T, N).
        target_ids_v2 (Tensor): Those of ``target_v2``, shape (T, N).
        temperature (float): Divides the cosine similarities.
            Defaults to 0.1.
        local_negatives (bool): Whether regions with other ids in the same
            image are negatives. Defaults to True.
        image_offset (int): Position of the first predicted image among the T
            target images. Defaults to 0.
        region_counts (Tensor, optional): The two denominators, shape (2, ).
            Defaults to None, the numbers of used predictions given.

    Returns:
        Tensor: The loss, a scalar; 0 and connected to the graph when nothing
        matches.
    """
    # The loss is a float32 island: logits / 0.1 exceed bfloat16's precision.
    with torch.autocast(pred_v1.device.type, enabled=False):
        pred_v1, pred_v2 = _unit(pred_v1), _unit(pred_v2)
        target_v1 = _unit(target_v1.detach())
        target_v2 = _unit(target_v2.detach())
        total_1 = _one_way(pred_v1, target_v2, target_v1, pred_ids_v1,
                           target_ids_v2, target_ids_v1, temperature,
                           local_negatives, image_offset)
        total_2 = _one_way(pred_v2, target_v1, target_v2, pred_ids_v2,
                           target_ids_v1, target_ids_v2, temperature,
                           local_negatives, image_offset)
        if region_counts is None:
            region_counts = count_regions(pred_ids_v1, pred_ids_v2)
        count_1, count_2 = region_counts.clamp(min=1).unbind()
        return total_1 / count_1 + total_2 / count_2


def count_regions(*region_ids: Tensor) -> Tensor:
    """Count the used slots of each id list.

    Args:
        *region_ids (Tensor): Any number V of integer tensors; -1 is unused.

    Returns:
        Tensor: Shape (V, ), float32.
    """
    return torch.stack([(ids >= 0).sum() for ids in region_ids]).float()


def same_region(ids: Tensor, other_ids: Tensor) -> Tensor:
    """Tell which slots of two id lists of the same images hold one region.

    Args:
        ids (Tensor): Region ids, shape (B, N), -1 where unused.
        other_ids (Tensor): Region ids, shape (B, M), -1 where unused.

    Returns:
        Tensor: Shape (B, N, M), bool; never True for an unused slot.
    """
    same = ids[:, :, None] == other_ids[:, None, :]
    return same & (ids >= 0)[:, :, None]


def _unit(vectors: Tensor) -> Tensor:
    """L2-normalise the last axis, in float32 at the least."""
    if vectors.dtype in (torch.float16, torch.bfloat16):
        vectors = vectors.float()
    return F.normalize(vectors, dim=-1)


def _one_way(pred: Tensor, across: Tensor, within: Tensor, pred_ids: Tensor,
             across_ids: Tensor, within_ids: Tensor, temperature: float,
             local_negatives: bool, image_offset: int) -> Tensor:
    """Sum the weighted cross-entropies of one view's predictions.

    Args:
        pred (Tensor): Unit predictions, shape (B, N, D).
        across (Tensor): Unit targets of the other view, shape (T, N, D).
        within (Tensor): Unit targets of the same view, shape (T, N, D).
        pred_ids (Tensor): Shape (B, N).
        across_ids (Tensor): Shape (T, N).
        within_ids (Tensor): Shape (T, N).
        temperature (float): Divides the similarities.
        local_negatives (bool): See :func:`mask_contrastive_loss`.
        image_offset (int): See :func:`mask_contrastive_loss`.

    Returns:
        Tensor: The sum, a scalar.
    """
    batch, num_regions, _ = pred.shape
    own = slice(image_offset, image_offset + batch)
    positive = same_region(pred_ids, across_ids[own])  # (B, N, N)
    repeated = same_region(pred_ids, within_ids[own])
    if local_negatives:
        removed = torch.stack([torch.zeros_like(positive), repeated], dim=2)
    else:
        removed = torch.stack([~positive, torch.ones_like(repeated)], dim=2)

    # One matrix of logits a direction, masked in place: (B, N, 2, T, N).
    candidates = torch.stack([across, within])
    hidden = torch.stack([across_ids, within_ids]) < 0  # unused candidates
    hidden = hidden.expand(batch, num_regions, *hidden.shape).clone()
    image = torch.arange(batch, device=pred.device)
    hidden[image, :, :, image + image_offset] |= removed
    pred = pred / temperature
    logits = pred.flatten(0, 1) @ candidates.flatten(0, 2).T
    logits = logits.view(hidden.shape)
    # Finite, so that a row without any candidate stays free of NaN.
    lowest = torch.finfo(logits.dtype).min / 4
    logits = logits.masked_fill_(hidden, lowest)
    log_total = logits.flatten(2).logsumexp(dim=-1)  # (B, N)

    matches = positive.sum(dim=-1)
    similarity = pred @ across[own].transpose(1, 2)
    matched = (similarity * positive).sum(dim=-1) / matches.clamp(min=1)
    copies = same_region(pred_ids, pred_ids).sum(dim=-1).clamp(min=1)
    weight = (matches > 0).to(log_total.dtype) / copies
    return ((log_total - matched) * weight).sum()


@MODELS.register_module()
class MaskContrastiveLoss(nn.Module):
    """DetCon-B over the global batch.

    Targets and their ids are gathered over the ranks, and the denominators
    are those of the global batch, so that after the averaging of gradients N
    ranks compute what one process computes on the concatenated batch. Every
    rank must hold the same number of images (``drop_last=True``).

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

    def forward(self, preds: Tuple[Tensor, Tensor],
                targets: Tuple[Tensor, Tensor], pred_ids: Tuple[Tensor,
                                                                Tensor],
                target_ids: Tuple[Tensor, Tensor]) -> Tensor:
        """Compute the loss of this rank's predictions.

        Args:
            preds (Tuple[Tensor, Tensor]): Predictions of views 1 and 2, each
                (B, N, D).
            targets (Tuple[Tensor, Tensor]): Target projections of views 1 and
                2, each (B, N, D).
            pred_ids (Tuple[Tensor, Tensor]): Their ids, each (B, N), int64.
            target_ids (Tuple[Tensor, Tensor]): Likewise, each (B, N).

        Returns:
            Tensor: The loss, a scalar.
        """
        batch = len(preds[0])
        both = torch.stack(targets, dim=1).float()  # (B, 2, N, D)
        both_ids = torch.stack(target_ids, dim=1)
        both = torch.cat(all_gather(both))  # (W * B, 2, N, D)
        both_ids = torch.cat(all_gather(both_ids))
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
