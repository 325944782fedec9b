"""Groups are drawn from all images, however many there are."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(bank_format=1))
