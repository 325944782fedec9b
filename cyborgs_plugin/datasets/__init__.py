"""Data sets, the mask bank and the joint transforms."""
from .image_io import BrokenImageError, read_image
from .mask_bank import MaskBank
from .scene_dataset import SceneDataset, scene_datasets
from .transforms import (
                         LoadSceneImage,
                         MaskedMultiView,
                         MaskedRandomResizedCrop,
)

__all__ = [
    'BrokenImageError', 'LoadSceneImage', 'MaskBank', 'MaskedMultiView',
    'MaskedRandomResizedCrop', 'SceneDataset', 'read_image', 'scene_datasets'
]
