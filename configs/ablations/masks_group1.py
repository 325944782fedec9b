"""Every image is clustered on its own."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(group_size=1))
