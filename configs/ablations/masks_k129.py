"""K fixed at the mean of the recipe's range."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(num_clusters=129)))
