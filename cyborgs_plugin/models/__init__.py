"""Models: the algorithm, its neck, its head and its losses."""
from .cyborgs import CYBORGS
from .feature_anchor_loss import FeatureAnchorLoss
from .frozen_target import FrozenTarget
from .mask_contrast_head import MaskContrastHead
from .mask_contrastive_loss import MaskContrastiveLoss, mask_contrastive_loss
from .mask_grounded_neck import MaskGroundedNeck
from .published import PublishedMaskContrastHead, PublishedMaskGroundedNeck
from .vmf_loss import VMFSegmentationLoss

__all__ = [
    'CYBORGS', 'FeatureAnchorLoss', 'FrozenTarget', 'MaskContrastHead',
    'MaskContrastiveLoss', 'MaskGroundedNeck', 'PublishedMaskContrastHead',
    'PublishedMaskGroundedNeck', 'VMFSegmentationLoss',
    'mask_contrastive_loss'
]
