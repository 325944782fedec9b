"""K = 32 for every group."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(num_clusters=32)))
