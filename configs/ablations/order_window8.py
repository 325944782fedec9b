"""Photographs in tar files of a store: each process shuffles 8 at a time."""
_base_ = '../cyborgs_coco.py'

train_dataloader = dict(sampler=dict(window=8))
