"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'resnet50_cyborgs-pre_linear_imagenet.py'

model = dict(backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)))
