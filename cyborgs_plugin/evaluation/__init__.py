"""Evaluation: the quality of masks and frozen probes."""
from ..datasets.coco_truth import CocoTruth, Instances
from .mask_quality import MaskQuality, color_kmeans

__all__ = ['CocoTruth', 'Instances', 'MaskQuality', 'color_kmeans']
