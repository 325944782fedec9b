"""Round 0 by a given network; set checkpoint to its file."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(
    mask_update=dict(
        initial=dict(
            type='NetworkMasks',
            layer='layer2.2',
            num_clusters=(2, 256),
            num_iters=20,
            checkpoint='work_dirs/backbone.pth')))
