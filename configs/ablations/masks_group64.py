"""Clusters are shared by 64 images; memory grows with them."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(group_size=64))
