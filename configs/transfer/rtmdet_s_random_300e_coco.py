"""The twin that starts from random weights."""
_base_ = 'rtmdet_s_cyborgs-pre_300e_coco.py'

model = dict(backbone=dict(init_cfg=None))
