"""The twin that starts from random weights."""
_base_ = 'faster-rcnn_cspnext-tiny_fpn_cyborgs-pre_toy.py'

model = dict(backbone=dict(init_cfg=None))
