"""The twin that starts from random weights."""
_base_ = 'mask-rcnn_r50-c4_cyborgs-pre_1x_coco.py'

head = _base_.model.roi_head.shared_head
head[0].init_cfg = None
model = dict(
    backbone=dict(init_cfg=None),
    roi_head=dict(shared_head=head))
