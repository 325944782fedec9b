"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'mask-rcnn_r50-c4_cyborgs-pre_1x_coco.py'

head = _base_.model.roi_head.shared_head
head[0].init_cfg = _base_.supervised
model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)),
    roi_head=dict(shared_head=head))
