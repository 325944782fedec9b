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
    data; ``MaskUpdateHook`` renews them.

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
                holds the label maps of both views, (2, H, W), integer.
            **kwargs: Not used.

        Returns:
            dict[str, Tensor]: See :meth:`MaskContrastHead.loss`.

        Raises:
            ValueError: If there are not two views or a sample has no mask.
            RuntimeError: If the target network is never updated.
        """
        label_maps = stack_label_maps(inputs, data_samples)
        self._expect_updates()
        cells = [self.neck.cells(label_map) for label_map in label_maps]
        target_backbone, target_neck = self.target_net.module
        # Drawn while the device has nothing to do yet, because the host waits
        # here.
        ids = [neck.sample(cell) for neck in (self.neck, target_neck)
               for cell in cells]
        rows = used_rows(*ids)

        # First, before the online network's outputs are kept for its gradient.
        target, target_feats = [], []
        with torch.no_grad():
            for view, *regions in zip(inputs, cells, ids[2:], rows[2:]):
                feats = target_neck.channels_first(target_backbone(view))
                target.append(target_neck(feats, *regions))
                target_feats.append(feats if self.head.uses_feats else ())
                del feats
        # One after the other, so that the backward pass finishes and frees
        # view 2 before the gradient of the neck in view 1.
        online, online_feats = [], []
        for view, *regions in zip(inputs, cells, ids[:2], rows[:2]):
            online_feats.append(self.neck.channels_first(self.backbone(view)))
            online.append(self.neck(online_feats[-1], *regions))
        return self.head.loss(online, target, online_feats, target_feats,
                              rows[:2])

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
    if len(inputs) != 2:
        raise UserError(
            f'Two views are contrasted, but there are {len(inputs)}: give '
            'MaskedMultiView two pipelines')
    if not all('mask' in sample for sample in data_samples):
        raise UserError(
            'A data sample carries no `mask`: load with SceneDataset and '
            'put MaskedMultiView before PackInputs in the pipeline')
    return torch.stack([sample.mask for sample in data_samples], 1)
