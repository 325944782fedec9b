"""Small data: superpixels instead of cells."""
_base_ = ['../cyborgs_small_data.py', '../_base_/masks/superpixels.py']

# Merged, each photograph alone: better masks than by k-means.
default_hooks = dict(
    mask_update=dict(
        group_size=1,
        source=dict(_base_.superpixel_masks, linkage='average')))
