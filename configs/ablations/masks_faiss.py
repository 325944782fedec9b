"""The published k-means (pip install faiss-cpu)."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(mask_update=dict(source=dict(backend='faiss')))
