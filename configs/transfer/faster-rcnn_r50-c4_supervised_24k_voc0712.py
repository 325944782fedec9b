"""The twin that starts from torchvision's supervised ImageNet weights."""
_base_ = 'faster-rcnn_r50-c4_cyborgs-pre_24k_voc0712.py'

head = _base_.model.roi_head.shared_head
head[0].init_cfg = _base_.supervised
model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, **_base_.supervised)),
    roi_head=dict(shared_head=head))
