"""Segmentation: features, k-means, mask sources and mask rounds."""
from ..ops.kmeans import kmeans
from .features import FeatureExtractor
from .mask_round import make_round
from .network_masks import NetworkMasks
from .ranks import MaskRoundError
from .sources import (
    AnnotatedMasks,
    BankMasks,
    FelzenszwalbMasks,
    GridMasks,
    MaskSource,
)
from .superpixel_masks import SuperpixelMasks
from .teacher_features import TeacherFeatures

__all__ = [
    'AnnotatedMasks', 'BankMasks', 'FeatureExtractor', 'FelzenszwalbMasks',
    'GridMasks', 'MaskRoundError', 'MaskSource', 'NetworkMasks',
    'SuperpixelMasks', 'TeacherFeatures', 'kmeans', 'make_round'
]
