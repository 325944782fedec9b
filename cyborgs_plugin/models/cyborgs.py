"""The CYBORGS algorithm."""
from collections.abc import Sequence

import torch
from mmengine.model import BaseAveragedModel
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..errors import UserError
from .published import refuse_moved_keys
from .regions import used_rows
from .unused_parameters import freeze_unused
from .widths import build_to_fit

# More steps than anyone accumulates gradients over.
_MAX_LOSSES_WITHOUT_UPDATE = 4096


@MODELS.register_module()
class CYBORGS(BaseSelfSupervisor):
    """CYBORGS.

    Implementation of `CYBORGS: Contrastively Bootstrapping Object
    Representations by Grounding in Segmentation
    <https://arxiv.org/abs/2203.09343>`_.

    ``TargetUpdateHook`` calls :meth:`update_target` once per optimiser step,
    so that the target network follows the online one. The masks come with the
    data, and ``MaskUpdateHook`` renews them; or ``in_step_masks`` makes them.

    Args:
        backbone (dict): Config of the backbone. Its outputs must include all
            stages that the neck fuses.
        neck (dict): Config of the mask-grounded neck. If
            ``projector.in_channels`` is missing, it is derived from the
            backbone.
        head (dict): Config of the mask contrast head.
        target_ema (dict): Config of the target's moving average.
            ``momentum`` is 1 - decay. Defaults to
            ``dict(type='ForeachEMA', momentum=0.004)``.
        pretrained (str, optional): Path of a checkpoint to start from.
            Defaults to None.
        data_preprocessor (dict, optional): Config of the data preprocessor.
            Defaults to None, ``SelfSupDataPreprocessor``.
        channels_last (bool): Store the weights of convolutions, and so the
            maps, with channels last in memory, which is faster on many
            processors. Initial weights are drawn in another order; otherwise
            values differ only by rounding. Defaults to False.
        in_step_masks (dict, optional): Config of what makes masks in the step
            itself, such as ``dict(type='InStepMasks')``; the data then carry
            none. Defaults to None: the masks come with the data.
        init_cfg (dict or list[dict], optional): Initialization config.
            Defaults to None.
    """

    def __init__(self,
                 backbone: dict,
                 neck: dict,
                 head: dict,
                 target_ema: dict = dict(type='ForeachEMA', momentum=0.004),
                 pretrained: str | None = None,
                 data_preprocessor: dict | None = None,
                 channels_last: bool = False,
                 in_step_masks: dict | None = None,
                 init_cfg: list[dict] | dict | None = None) -> None:
        refuse_moved_keys('neck', neck)
        refuse_moved_keys('head', head)
        built, neck = build_to_fit(backbone, neck)
        super().__init__(
            backbone=built,
            neck=neck,
            head=head,
            pretrained=pretrained,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg)
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        freeze_unused(self.backbone, self.neck)
        self.target_net: BaseAveragedModel = MODELS.build(
            target_ema, default_args=dict(model=self._online()))
        self.in_step_masks = MODELS.build(
            in_step_masks) if in_step_masks else None
        self._losses_since_update = 0

    def _online(self) -> nn.Module:
        return nn.Sequential(self.backbone, self.neck)

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target network towards the online one.

        The first call makes them equal. Buffers (the running statistics of
        batch norms) are copied, but nothing reads the target's, since its
        batch norms run in train mode.
        """
        self.target_net.update_parameters(self._online())
        self._losses_since_update = 0

    def loss(self, inputs: list[Tensor], data_samples: list[DataSample],
             **kwargs: object) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            inputs (list[Tensor]): Views 1 and 2, each (B, 3, H, W), float32.
            data_samples (list[DataSample]): B samples; the ``mask`` of each
                holds the label maps of both views, (2, H, W), integer. With
                ``in_step_masks`` they hold nothing.
            **kwargs: Not used.

        Returns:
            dict[str, Tensor]: See :meth:`MaskContrastHead.loss`; and with
            ``in_step_masks`` the largest number of regions of an image,
            ``num_clusters``.

        Raises:
            UserError: If there are not two views or a sample has no mask; or
                it has one that nothing would read.
            RuntimeError: If the target network is never updated.
        """
        _expect_two(inputs)
        self._expect_updates()
        if self.in_step_masks is None:
            # Drawn while the device has nothing to do yet, because the host
            # waits here.
            drawn = self._draw([
                self.neck.cells(label_map)
                for label_map in stack_label_maps(inputs, data_samples)])
        elif any('mask' in sample for sample in data_samples):
            raise UserError(
                'model.in_step_masks makes the masks, but the data samples '
                'carry a `mask`, which nothing would read: take '
                'MaskUpdateHook out of default_hooks, and the masks out of '
                'the data as configs/cyborgs_in_step.py does')
        target_backbone, target_neck = self.target_net.module
        # First, before the online network's outputs are kept for its gradient.
        with torch.no_grad():
            feats = [target_neck.channels_first(target_backbone(view))
                     for view in inputs]
            if self.in_step_masks is not None:
                drawn = self._draw(self.in_step_masks(
                    feats, [self.neck.grid_size(view) for view in inputs]))
            cells, ids, rows = drawn
            target = [target_neck(*regions)
                      for regions in zip(feats, cells, ids[2:], rows[2:])]
        target_feats = feats if self.head.uses_feats else [(), ()]
        del feats
        # One after the other, so that the backward pass finishes and frees
        # view 2 before the gradient of the neck in view 1.
        online, online_feats = [], []
        for view, *regions in zip(inputs, cells, ids[:2], rows[:2]):
            online_feats.append(self.neck.channels_first(self.backbone(view)))
            online.append(self.neck(online_feats[-1], *regions))
        losses = self.head.loss(online, target, online_feats, target_feats,
                                rows[:2])
        if self.in_step_masks is not None:
            losses['num_clusters'] = torch.full(
                (), float(self.in_step_masks.clusters_now()),
                device=inputs[0].device)
        return losses

    def _draw(self, cells: list[Tensor]) -> tuple[
            list[Tensor], list[Tensor], tuple[Tensor, ...]]:
        """Draw the regions of each branch.

        Args:
            cells (list[Tensor]): Labels of the cells of views 1 and 2, each
                (B, h, w), int64.

        Returns:
            tuple: The cells; region ids of online views 1 and 2 and of target
            views 1 and 2, (B, N), int64; and their :func:`used_rows`.
        """
        ids = [neck.sample(cell)
               for neck in (self.neck, self.target_net.module[1])
               for cell in cells]
        return cells, ids, used_rows(*ids)

    def _expect_updates(self) -> None:
        self._losses_since_update += 1
        if self._losses_since_update > _MAX_LOSSES_WITHOUT_UPDATE:
            raise RuntimeError(
                f'{self._losses_since_update} losses were computed without an '
                'update of the target network: add '
                "target_update=dict(type='TargetUpdateHook') to default_hooks")


def stack_label_maps(inputs: Sequence[Tensor],
                     data_samples: Sequence[DataSample]) -> Tensor:
    """Take the label maps of two views out of a batch.

    Args:
        inputs (Sequence[Tensor]): The views, each (B, 3, H, W).
        data_samples (Sequence[DataSample]): B samples; the ``mask`` of each
            is (2, H, W), integer.

    Returns:
        Tensor: Shape (2, B, H, W), integer.

    Raises:
        UserError: If there are not two views or a sample has no mask.
    """
    _expect_two(inputs)
    if not all('mask' in sample for sample in data_samples):
        raise UserError(
            'A data sample carries no `mask`: load with SceneDataset and '
            'put MaskedMultiView before PackInputs in the pipeline')
    return torch.stack([sample.mask for sample in data_samples], 1)


def _expect_two(inputs: Sequence[Tensor]) -> None:
    """Refuse another number of views."""
    if len(inputs) != 2:
        raise UserError(
            f'Two views are contrasted, but there are {len(inputs)}: give '
            'MaskedMultiView or MultiView two pipelines')
