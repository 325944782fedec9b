"""Cluster superpixels instead of cells: regions follow edges."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(
    mask_update=dict(source=dict(superpixels=dict(type='Felzenszwalb'))))
