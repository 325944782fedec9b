"""Round 0 is a grid of 4x4 rectangles."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(
    mask_update=dict(initial=dict(type='GridMasks', grid=(4, 4))))
