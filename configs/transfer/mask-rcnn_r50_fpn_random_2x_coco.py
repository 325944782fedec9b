"""The twin that starts from random weights."""
_base_ = 'mask-rcnn_r50_fpn_cyborgs-pre_2x_coco.py'

model = dict(backbone=dict(init_cfg=None))
