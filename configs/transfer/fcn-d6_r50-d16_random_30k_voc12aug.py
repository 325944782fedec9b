"""The twin that starts from random weights."""
_base_ = 'fcn-d6_r50-d16_cyborgs-pre_30k_voc12aug.py'

model = dict(backbone=dict(init_cfg=None))
