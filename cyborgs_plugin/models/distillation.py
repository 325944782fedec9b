"""Distillation by regions, from a frozen teacher to any backbone."""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..errors import MissingFileError, UserError
from ..ops.memory_format import forward_format
from ..start_file import content_hash, load_start
from .cyborgs import stack_label_maps
from .mask_contrastive_loss import count_matches
from .regions import pool_regions, used_rows
from .unused_parameters import freeze_unused
from .widths import build_to_fit

Views = Sequence[Tensor]
"""Values for view 1 and view 2."""


@MODELS.register_module()
class FrozenTeacher(BaseModule):
    """A network that provides targets and is never trained.

    ``init_weights`` reads its weights from the file at the start of each run.
    A checkpoint holds only their hash, so that a run cannot resume with
    another teacher.

    Args:
        backbone (dict): Config of the teacher: a backbone of mmpretrain, or
            ``dict(type='TIMMBackbone', features_only=True, ...)``. Its outputs
            are maps (B, C, H, W).
        checkpoint (str): File of its weights, from any common source; see
            :func:`start_file.fit_names`. Nothing is downloaded.
        prefix (str, optional): What the names in the file begin with. Defaults
            to None, detected.
        in_indices (Sequence[int], optional): Indices of the outputs that are
            targets. Defaults to None, all.
        input_size (int, optional): Resize the longer side of views to this
            many pixels first: a teacher recognises more at the size it was
            trained with than in the small views of the student. Defaults to
            None, no resizing.
    """

    digest: Tensor

    def __init__(self,
                 backbone: dict,
                 checkpoint: str,
                 prefix: str | None = None,
                 in_indices: Sequence[int] | None = None,
                 input_size: int | None = None) -> None:
        super().__init__()
        if backbone.get('pretrained') or backbone.get('init_cfg'):
            raise UserError(
                'model.teacher.backbone has weights of its own (pretrained '
                'or init_cfg): name their file by model.teacher.checkpoint, '
                'which is read whole and downloads nothing')
        self.backbone = MODELS.build(backbone).requires_grad_(False)
        self._format: torch.memory_format | None = None
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.in_indices = in_indices
        self.input_size = input_size
        # SHA-256 of the weights; zeros before they are read
        self.register_buffer('digest', torch.zeros(32, dtype=torch.uint8))
        self._register_state_dict_hook(_digest_only)
        self.register_load_state_dict_post_hook(_expect_digest_only)
        self._prefix = ''
        self.train(False)

    def init_weights(self) -> None:
        """Read the weights.

        Raises:
            UserError: If the file is missing or does not fit.
        """
        try:
            load_start(self.backbone, self.checkpoint, self.prefix)
        except MissingFileError as error:
            raise MissingFileError(
                f'{error}. It is the teacher, model.teacher.checkpoint: the '
                'head of the config says where such files come from; name '
                'yours by TEACHER=FILE before the command') from error
        except UserError as error:
            raise UserError(
                f'{error}. It is the teacher, model.teacher.checkpoint: give '
                'the file of the network that model.teacher.backbone names '
                'by TEACHER=FILE before the command') from error
        digest = bytes.fromhex(content_hash(self.backbone.state_dict()))
        self.digest.copy_(torch.tensor(list(digest)))

    def train(self, mode: bool = True) -> 'FrozenTeacher':
        """Stay in evaluation mode."""
        del mode
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self,
                view: Tensor,
                grid_size: tuple[int, int],
                input_size: int | None = None) -> Tensor:
        """Compute the target of each cell.

        Args:
            view (Tensor): (B, 3, H, W), normalised, float32.
            grid_size (tuple[int, int]): The grid's height and width (h, w).
            input_size (int, optional): In place of that of the teacher.
                Defaults to None.

        Returns:
            Tensor: Shape (B, C, h, w); C is the sum over the outputs.

        Raises:
            RuntimeError: If its weights were not read.
            UserError: If an output is not a map.
        """
        if not self.digest.any():
            raise RuntimeError('FrozenTeacher.init_weights() comes first')
        input_size = input_size or self.input_size
        if input_size is not None:
            scale = input_size / max(view.shape[2:])
            view = F.interpolate(
                view,
                [round(scale * side) for side in view.shape[2:]],
                mode='bicubic',
                antialias=True)
        if self._format is None:  # when it is on its device
            self._format = forward_format(self.backbone, view.device)
            self.backbone.to(memory_format=self._format)
        feats = self.backbone(view.contiguous(memory_format=self._format))
        chosen = range(len(feats)) if (
            self.in_indices is None) else self.in_indices
        if isinstance(feats, Tensor) or max(chosen) >= len(feats) or any(
                feats[index].ndim != 4 for index in chosen):
            raise UserError(
                f'model.teacher.in_indices={self.in_indices}, but the teacher '
                f'gives {[tuple(feat.shape) for feat in feats]}: it must give '
                'as many maps (B, C, H, W). Set out_indices, and '
                "out_type='featmap' (a transformer of mmpretrain) or "
                'features_only=True (of timm)')
        return torch.cat([
            F.adaptive_avg_pool2d(feats[index].float(), grid_size)
            for index in chosen
        ], 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str,
                              *args: Any, **kwargs: Any) -> None:
        """Refuse a checkpoint of a run with another teacher."""
        self._prefix = prefix
        theirs = state_dict.get(f'{prefix}digest')
        if theirs is not None and self.digest.any() and not torch.equal(
                theirs.cpu(), self.digest.cpu()):
            raise UserError(
                'The checkpoint was trained by a teacher of hash '
                f'{_hexadecimal(theirs)}, but model.teacher.checkpoint='
                f'{self.checkpoint!r} has {_hexadecimal(self.digest)}: give '
                'the same file to resume, or start over')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _hexadecimal(digest: Tensor) -> str:
    return bytes(digest.tolist()).hex()[:12]


def _digest_only(teacher: nn.Module, state: dict[str, Any], prefix: str,
                 *_: Any) -> None:
    """Leave the teacher's weights out of a checkpoint."""
    for key in list(state):
        if key.startswith(f'{prefix}backbone.'):
            del state[key]


def _expect_digest_only(teacher: Any, incompatible: Any) -> None:
    """Expect only the hash when a checkpoint is loaded."""
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys
        if not key.startswith(f'{teacher._prefix}backbone.')
    ]


@MODELS.register_module()
class CellDistillationLoss(nn.Module):
    """Predict the teacher's feature of each cell.

    Args:
        loss_weight (float): Weight of the loss. Defaults to 1.0.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            preds (Tensor): Predictions, shape (M, C).
            targets (Tensor): The teacher's features, shape (M, C).

        Returns:
            Tensor: Mean of 1 - cosine, a scalar from 0 to 2.
        """
        cosine = F.cosine_similarity(preds.float(), targets.float(), dim=1)
        return self.loss_weight * (1 - cosine).mean()


@MODELS.register_module()
class DistillationHead(BaseModule):
    """Compare predictions with the teacher's features, by cell and region.

    Args:
        cell_loss (dict, optional): Config of the loss that compares each cell
            with the teacher's in the same view. None disables it. Defaults to
            ``dict(type='CellDistillationLoss')``.
        region_loss (dict, optional): Config of the loss that compares each
            region with the teacher's in the *other* view. None disables it.
            Defaults to ``dict(type='MaskContrastiveLoss')``.
        init_cfg (dict or list[dict], optional): Initialization config.
            Defaults to None.
    """

    def __init__(self,
                 cell_loss: dict | None = dict(type='CellDistillationLoss'),
                 region_loss: dict | None = dict(type='MaskContrastiveLoss'),
                 init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if not cell_loss and not region_loss:
            raise UserError('model.head has neither cell_loss nor '
                            'region_loss: set one of them')
        self.cell_loss = MODELS.build(cell_loss) if cell_loss else None
        self.region_loss = MODELS.build(region_loss) if region_loss else None

    def loss(self, cells: tuple[Tensor, Tensor], regions: Views,
             target_regions: Views, region_ids: Views) -> dict[str, Tensor]:
        """Compute the losses and the values that explain them.

        Args:
            cells (tuple[Tensor, Tensor]): Predictions and targets of the
                cells of both views, each (M, C).
            regions (Views): Predictions (B, N, C).
            target_regions (Views): Regions of the teacher (B, N, C).
            region_ids (Views): Region ids (B, N), -1 where unused.

        Returns:
            dict[str, Tensor]: Scalars: ``loss_cells`` and ``loss_regions``
            where configured, those of :func:`count_matches`, and
            ``chance_level``, what ``loss_regions`` is where nothing is told
            apart.
        """
        losses = count_matches(region_ids, region_ids)
        if self.cell_loss is not None:
            losses['loss_cells'] = self.cell_loss(*cells)
        if self.region_loss is not None:
            losses['loss_regions'] = self.region_loss(
                tuple(regions), tuple(target_regions), tuple(region_ids),
                tuple(region_ids))
            if hasattr(self.region_loss, 'chance_level'):
                losses['chance_level'] = self.region_loss.chance_level(
                    region_ids, region_ids)
        return losses


@MODELS.register_module()
class RegionDistillation(BaseSelfSupervisor):
    """Teach a backbone what a frozen network sees, by cells and regions.

    Both networks see the same views. The outputs of each, with any strides and
    widths, are brought to the grid of the neck and concatenated. The teacher's
    channels are standardised over the batch, so that each has the same weight.
    The student's projector predicts them for every cell and for regions pooled
    by the masks. Only the backbone is used afterwards.

    Args:
        backbone (dict): Config of the student.
        neck (dict): Config of a ``MaskGroundedNeck``. Its projector must have
            as many output channels as all outputs of the teacher together. If
            ``in_channels`` is missing, it is derived from the backbone.
        head (dict): Config of the ``DistillationHead``.
        teacher (dict): Config of the ``FrozenTeacher``.
        pretrained (str, optional): Path of a checkpoint to start from.
            Defaults to None.
        data_preprocessor (dict, optional): Config of the data preprocessor;
            its normalisation also applies to the teacher. Defaults to None,
            ``SelfSupDataPreprocessor``.
        init_cfg (dict or list[dict], optional): Initialization config.
            Defaults to None.
    """

    def __init__(self,
                 backbone: dict,
                 neck: dict,
                 head: dict,
                 teacher: dict,
                 pretrained: str | None = None,
                 data_preprocessor: dict | None = None,
                 init_cfg: list[dict] | dict | None = None) -> None:
        built, neck = build_to_fit(backbone, neck)
        super().__init__(
            backbone=built,
            neck=neck,
            head=head,
            pretrained=pretrained,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg)
        self.teacher = MODELS.build(teacher)
        freeze_unused(self.backbone, self.neck)

    def loss(self, inputs: list[Tensor], data_samples: list[DataSample],
             **kwargs: object) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            inputs (list[Tensor]): Views 1 and 2, each (B, 3, H, W), float32.
            data_samples (list[DataSample]): B samples; the ``mask`` of each
                holds the label maps of both views, (2, H, W), integer, and
                ``teacher``, if there, what the teacher sees in them,
                (2, C, h, w), which then is not run.
            **kwargs: Not used.

        Returns:
            dict[str, Tensor]: See :meth:`DistillationHead.loss`.

        Raises:
            UserError: If a sample has no mask, or the widths do not agree.
        """
        grids = [
            self.neck.cells(label_map)
            for label_map in stack_label_maps(inputs, data_samples)
        ]
        # Drawn while the device has nothing to do yet, because the host waits
        # here.
        ids = [self.neck.sample(grid) for grid in grids]
        rows = used_rows(*ids)
        maps = [
            self.neck.fuse(self.backbone(view), tuple(grid.shape[1:]))
            for view, grid in zip(inputs, grids)
        ]
        targets = self._standardised(
            self._seen(inputs, data_samples, grids))
        preds = self.neck.projector((_rows(*maps), ))[0]  # (M, C)
        if preds.shape[1] != targets[0].shape[1]:
            raise UserError(
                'model.neck.projector.out_channels gives '
                f'{preds.shape[1]} channels, but the outputs of the teacher '
                f'have {targets[0].shape[1]} together: set it to that')
        regions, target_regions = (
            [pool_regions(one, grid, drawn)
             for one, grid, drawn in zip(both, grids, ids)]
            for both in (maps, targets))
        regions = [self.neck.project(region, drawn >= 0, used)
                   for region, drawn, used in zip(regions, ids, rows)]
        return self.head.loss(
            (preds, _rows(*targets)), regions, target_regions, ids)

    def _seen(self, inputs: list[Tensor], data_samples: list[DataSample],
              grids: list[Tensor]) -> list[Tensor]:
        """What the teacher sees in each view, (B, C, h, w)."""
        sizes: list[tuple[int, int]] = [
            (grid.shape[1], grid.shape[2]) for grid in grids]
        if all('teacher' in sample for sample in data_samples):  # stored
            stored = torch.stack(
                [sample.teacher for sample in data_samples], 1).float()
            return [F.adaptive_avg_pool2d(view, size)
                    for view, size in zip(stored, sizes)]
        return [self.teacher(view, size)
                for view, size in zip(inputs, sizes)]

    @staticmethod
    def _standardised(maps: list[Tensor]) -> list[Tensor]:
        """Give each channel mean 0 and variance 1 over all cells."""
        rows = _rows(*maps)
        mean, std = rows.mean(0), rows.std(0).clamp(min=1e-6)
        return [(one - mean[:, None, None]) / std[:, None, None]
                for one in maps]


def _rows(*maps: Tensor) -> Tensor:
    """The vectors of all cells of maps (B, C, h, w), (M, C)."""
    return torch.cat([one.permute(0, 2, 3, 1).flatten(0, 2) for one in maps])
