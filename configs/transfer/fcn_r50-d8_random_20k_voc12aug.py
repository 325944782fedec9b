"""The twin that starts from random weights."""
_base_ = 'fcn_r50-d8_cyborgs-pre_20k_voc12aug.py'

model = dict(backbone=dict(init_cfg=None))
