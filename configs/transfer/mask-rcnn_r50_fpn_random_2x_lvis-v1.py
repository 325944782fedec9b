"""The twin that starts from random weights."""
_base_ = 'mask-rcnn_r50_fpn_cyborgs-pre_2x_lvis-v1.py'

model = dict(backbone=dict(init_cfg=None))
