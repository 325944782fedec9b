"""K drawn from 2 to 32, far fewer regions."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(num_clusters=(2, 32))))
