"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'fcn_r50-d8_cyborgs-pre_80k_ade20k.py'

model = dict(backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)))
