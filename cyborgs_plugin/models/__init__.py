"""Models: the algorithm, its neck, its head and its losses."""
from .colour_data_preprocessor import ColourDataPreprocessor
from .cyborgs import CYBORGS
from .distillation import (
    CellDistillationLoss,
    DistillationHead,
    FrozenTeacher,
    RegionDistillation,
)
from .feature_anchor_loss import FeatureAnchorLoss
from .foreach_ema import ForeachEMA
from .frozen_target import FrozenTarget
from .in_step_masks import InStepMasks
from .mask_contrast_head import MaskContrastHead
from .mask_contrastive_loss import MaskContrastiveLoss, mask_contrastive_loss
from .mask_grounded_neck import MaskGroundedNeck
from .module_backbone import ModuleBackbone
from .published import PublishedMaskContrastHead, PublishedMaskGroundedNeck
from .scene_data_preprocessor import SceneDataPreprocessor
from .timm_network import TimmNetwork
from .vmf_loss import VMFSegmentationLoss

__all__ = [
    'CYBORGS', 'CellDistillationLoss', 'ColourDataPreprocessor',
    'DistillationHead', 'FeatureAnchorLoss', 'ForeachEMA',
    'FrozenTarget', 'FrozenTeacher', 'InStepMasks', 'MaskContrastHead',
    'MaskContrastiveLoss', 'MaskGroundedNeck', 'ModuleBackbone',
    'PublishedMaskContrastHead',
    'PublishedMaskGroundedNeck', 'RegionDistillation',
    'SceneDataPreprocessor', 'TimmNetwork', 'VMFSegmentationLoss',
    'mask_contrastive_loss'
]
