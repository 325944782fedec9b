"""Continuing from good weights: superpixels instead of cells."""
_base_ = ['../cyborgs_continue.py', '../_base_/masks/superpixels.py']

# Told by the averaged features alone: docs/continue.md
default_hooks = dict(
    mask_update=dict(source=dict(_base_.superpixel_masks, plain_weight=0)))
