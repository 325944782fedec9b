"""A quarter of the k-means iterations."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(num_iters=5)))
