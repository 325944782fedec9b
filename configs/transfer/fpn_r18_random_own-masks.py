"""The twin that starts from random weights."""
_base_ = 'fpn_r18_cyborgs-pre_own-masks.py'

model = dict(backbone=dict(init_cfg=None))
