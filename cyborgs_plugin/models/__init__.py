"""Models: the algorithm, its neck, its head and its losses."""
from .cyborgs import CYBORGS
from .mask_contrast_head import MaskContrastHead
from .mask_contrastive_loss import MaskContrastiveLoss, mask_contrastive_loss
from .mask_grounded_neck import MaskGroundedNeck
from .vmf_loss import VMFSegmentationLoss

__all__ = [
    'CYBORGS', 'MaskContrastHead', 'MaskContrastiveLoss', 'MaskGroundedNeck',
    'VMFSegmentationLoss', 'mask_contrastive_loss'
]
