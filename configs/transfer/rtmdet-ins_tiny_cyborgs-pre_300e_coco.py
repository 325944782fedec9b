"""COCO RTMDet-Ins-tiny, 300 epochs, from a published backbone.

This is mmdet's recipe. Only the start and the place of the data differ.
"""
_base_ = [
    'mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', '_base_/protocol.py'
]

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=_base_.pretrained.checkpoint)))

data_root = _base_.coco_root
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
