"""Cluster colours in addition to features."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(colour_weight=0.5)))
