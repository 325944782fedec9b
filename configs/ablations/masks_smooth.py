"""Average features over their neighbours, 32 pixels wide, then cluster."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(smooth=32)))
