"""The head that predicts and contrasts regions."""
from collections.abc import Sequence

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor

from .mask_contrastive_loss import count_matches
from .regions import map_regions

Regions = tuple[Tensor, Tensor]
"""Projections (B, N, D) and their region ids (B, N), -1 where unused."""


@MODELS.register_module()
class MaskContrastHead(BaseModule):
    """Predict the target's regions from the online ones and contrast them.

    Implementation of the objective of `CYBORGS
    <https://arxiv.org/abs/2203.09343>`_, Sec. 3.2 and, with
    ``segmentation_loss``, Sec. 3.3.

    Args:
        predictor (dict): Config of the predictor, a neck that maps a 1-tuple
            (M, D) to a 1-tuple (M, D).
        loss (dict): Config of the contrastive loss.
            Defaults to ``dict(type='MaskContrastiveLoss')``.
        segmentation_loss (dict, optional): Config of the segmentation loss on
            feature maps. Defaults to None; None or a ``loss_weight`` of 0
            costs nothing.
        anchor_loss (dict, optional): Config of the loss that keeps feature
            maps close to the target's, for a run that starts from good
            weights. Defaults to None.
        init_cfg (dict or list[dict], optional): Initialization config.
            Defaults to None.
    """

    def __init__(self,
                 predictor: dict,
                 loss: dict = dict(type='MaskContrastiveLoss'),
                 segmentation_loss: dict | None = None,
                 anchor_loss: dict | None = None,
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.predictor = MODELS.build(predictor)
        self.loss_module = MODELS.build(loss)
        self.segmentation_loss = None
        if segmentation_loss and segmentation_loss.get('loss_weight', 1) != 0:
            self.segmentation_loss = MODELS.build(segmentation_loss)
        self.anchor_loss = MODELS.build(anchor_loss) if anchor_loss else None

    @property
    def uses_feats(self) -> bool:
        """Whether the loss reads feature maps, which are kept until then."""
        return (self.segmentation_loss is not None
                or self.anchor_loss is not None)

    def predict(self, online: Regions, rows: Tensor | None = None) -> Tensor:
        """Predict the target projections.

        Args:
            online (Regions): Online projections (B, N, D), ids (B, N).
            rows (Tensor, optional): See :func:`map_regions`.
                Defaults to None.

        Returns:
            Tensor: Predictions, shape (B, N, D), zeros in unused slots.
        """
        projections, ids = online
        return map_regions(lambda x: self.predictor((x, ))[0], projections,
                           ids >= 0, rows)

    def loss(self, online: tuple[Regions, Regions],
             target: tuple[Regions, Regions],
             online_feats: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
             target_feats: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
             rows: Sequence[Tensor | None] = (None, None)
             ) -> dict[str, Tensor]:
        """Compute the losses and the values that explain them.

        Args:
            online (tuple[Regions, Regions]): Online regions of views 1 and 2.
            target (tuple[Regions, Regions]): Target regions of views 1 and 2.
            online_feats (Tuple): Outputs of the online backbone for views 1
                and 2, each a tuple of (B, C_i, H_i, W_i).
            target_feats (Tuple): Outputs of the target backbone, in the same
                form; empty if :attr:`uses_feats` is False.
            rows (Sequence[Tensor, optional]): ``used_rows`` of the online
                regions of views 1 and 2. Defaults to (None, None), computed
                here.

        Returns:
            dict[str, Tensor]: Scalars: ``loss_contrast``,
            ``loss_segmentation`` and ``loss_anchor`` where configured, those
            of :func:`count_matches`, and ``chance_level``, what
            ``loss_contrast`` is where nothing is told apart.
        """
        pred_ids = (online[0][1], online[1][1])
        target_ids = (target[0][1], target[1][1])
        losses = dict(
            loss_contrast=self.loss_module(
                (self.predict(online[0], rows[0]),
                 self.predict(online[1], rows[1])),
                (target[0][0], target[1][0]), pred_ids, target_ids))
        if self.segmentation_loss is not None:
            losses['loss_segmentation'] = self.segmentation_loss(
                online_feats, target_feats)
        if self.anchor_loss is not None:
            losses['loss_anchor'] = self.anchor_loss(online_feats,
                                                     target_feats)

        losses.update(count_matches(pred_ids, target_ids))
        if hasattr(self.loss_module, 'chance_level'):
            losses['chance_level'] = self.loss_module.chance_level(
                pred_ids, target_ids)
        return losses
