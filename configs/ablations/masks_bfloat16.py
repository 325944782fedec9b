"""The forward of the mask update in bfloat16: half its time."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(dtype='bfloat16')))
