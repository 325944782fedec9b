"""k-means on 64 principal components of the 512 channels."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(pca_dim=64)))
