"""The twin that starts from random weights."""
_base_ = 'fcn_r50-d8_cyborgs-pre_40k_cityscapes.py'

model = dict(backbone=dict(init_cfg=None))
