"""Masks of stage 3: stride 16, 1024 channels."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(layer='layer3.5')))
