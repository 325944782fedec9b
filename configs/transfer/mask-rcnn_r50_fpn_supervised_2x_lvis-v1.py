"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'mask-rcnn_r50_fpn_cyborgs-pre_2x_lvis-v1.py'

model = dict(backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)))
