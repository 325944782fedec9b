"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'dino-4scale_r50_cyborgs-pre_12e_coco.py'

model = dict(backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)))
