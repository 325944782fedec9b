"""Small data: cells by k-means, as published, instead of superpixels."""
_base_ = '../cyborgs_small_data.py'

default_hooks = dict(
    mask_update=dict(
        group_size=16,
        source=dict(
            _delete_=True,
            type='NetworkMasks',
            num_clusters=(4, 32),
            num_iters=20,
            reflect=32,
            smooth=32,
            long_side=640)))
