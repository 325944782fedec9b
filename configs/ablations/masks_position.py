"""Cluster locations in addition to features: regions are more compact."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(position_weight=0.5)))
