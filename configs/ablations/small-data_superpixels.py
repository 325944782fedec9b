"""Small data: superpixels instead of cells."""
_base_ = ['../cyborgs_small_data.py', '../_base_/masks/superpixels.py']

default_hooks = dict(mask_update=dict(source=_base_.superpixel_masks))
