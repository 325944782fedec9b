"""Start k-means at points far apart, instead of random ones."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(kmeans_init='k-means++')))
