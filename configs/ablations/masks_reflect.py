"""Mirror 32 pixels beyond the border, so that it is not a region."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(reflect=32)))
