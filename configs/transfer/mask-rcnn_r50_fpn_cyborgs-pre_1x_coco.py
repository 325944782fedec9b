"""COCO Mask R-CNN R50-FPN, 90k iterations, from a published backbone."""
_base_ = 'mask-rcnn_r50_fpn_cyborgs-pre_2x_coco.py'

train_cfg = dict(_delete_=True, **_base_.loop_1x)
param_scheduler = _base_.scheduler_1x
