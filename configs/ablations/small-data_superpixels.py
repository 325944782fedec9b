"""Small data: superpixels instead of cells."""
_base_ = ['../cyborgs_small_data.py', '../_base_/masks/superpixels.py']

# Each photograph alone: regions found by merging are its own.
default_hooks = dict(
    mask_update=dict(group_size=1, source=_base_.superpixel_masks))
