"""Pure functions of tensors and arrays, without imports from the package."""
from .kmeans import kmeans
from .label_maps import crop_label_map, resize_label_map

__all__ = ['crop_label_map', 'kmeans', 'resize_label_map']
