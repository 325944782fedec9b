"""The twin that starts from random weights."""
_base_ = 'resnet50_cyborgs-pre_linear_imagenet.py'

model = dict(backbone=dict(init_cfg=None))
