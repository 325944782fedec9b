"""The twin that starts from random weights."""
_base_ = 'mask-rcnn_r18_fpn_cyborgs-pre_coco-mini.py'

model = dict(backbone=dict(init_cfg=None))
