"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'fcn_r50-d8_cyborgs-pre_20k_voc12aug.py'

model = dict(backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)))
