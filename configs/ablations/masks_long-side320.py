"""Compute the masks on images of half COCO's size."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(long_side=320)))
