"""The twin that starts from random weights."""
_base_ = 'faster-rcnn_r50-c4_cyborgs-pre_24k_voc0712.py'

head = _base_.model.roi_head.shared_head
head[0].init_cfg = None
model = dict(
    backbone=dict(init_cfg=None),
    roi_head=dict(shared_head=head))
