"""The twin that starts from random weights."""
_base_ = 'rtmdet_tiny_cyborgs-pre_toy.py'

model = dict(backbone=dict(init_cfg=None))
