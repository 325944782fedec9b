"""The twin that starts from random weights."""
_base_ = 'fcn_r50-d8_cyborgs-pre_80k_ade20k.py'

model = dict(backbone=dict(init_cfg=None))
