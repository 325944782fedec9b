"""Segmentation: features, k-means, mask sources and mask rounds."""
from ..ops.kmeans import kmeans
from .bootstrap import MaskRoundError, make_round
from .features import FeatureExtractor
from .sources import (
    AnnotatedMasks,
    BankMasks,
    FelzenszwalbMasks,
    GridMasks,
    MaskSource,
    NetworkMasks,
)

__all__ = [
    'AnnotatedMasks', 'BankMasks', 'FeatureExtractor', 'FelzenszwalbMasks',
    'GridMasks', 'MaskRoundError', 'MaskSource', 'NetworkMasks', 'kmeans',
    'make_round'
]
