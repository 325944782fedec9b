"""Four clusterings per image; every epoch draws one of them."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(num_clusterings=4)))
