"""Segmentation: features, k-means, mask sources and mask rounds."""
from .bootstrap import MaskRoundError, make_round
from .features import FeatureExtractor
from .kmeans import kmeans
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
