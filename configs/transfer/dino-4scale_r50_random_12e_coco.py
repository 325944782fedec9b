"""The twin that starts from random weights."""
_base_ = 'dino-4scale_r50_cyborgs-pre_12e_coco.py'

model = dict(backbone=dict(init_cfg=None))
