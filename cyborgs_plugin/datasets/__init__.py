"""Data sets, the mask bank and the joint transforms."""
from .fast_transforms import (
                         FastColorJitter,
                         FastGaussianBlur,
                         FastPackInputs,
                         FastRandomFlip,
                         FastRandomGrayscale,
                         FastRandomResizedCrop,
                         FastSolarize,
)
from .image_io import BrokenImageError, read_image
from .mask_bank import MaskBank
from .scene_dataset import SceneDataset, scene_datasets
from .scene_sampler import SceneSampler
from .transforms import (
                         LoadSceneImage,
                         MaskedMultiView,
                         MaskedRandomResizedCrop,
)

__all__ = [
    'BrokenImageError', 'FastColorJitter', 'FastGaussianBlur',
    'FastPackInputs', 'FastRandomFlip', 'FastRandomGrayscale',
    'FastRandomResizedCrop', 'FastSolarize', 'LoadSceneImage', 'MaskBank',
    'MaskedMultiView', 'MaskedRandomResizedCrop', 'SceneDataset',
    'SceneSampler', 'read_image', 'scene_datasets'
]
