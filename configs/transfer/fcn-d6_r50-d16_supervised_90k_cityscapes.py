"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'fcn-d6_r50-d16_cyborgs-pre_90k_cityscapes.py'

model = dict(backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)))
