"""COCO DINO R50, 12 epochs, from a published backbone: a transformer.

This is mmdet's recipe, except that a self-supervised backbone can train:
nothing is frozen, and batch norms update their statistics.
"""
_base_ = [
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '_base_/protocol.py'
]

model = dict(
    data_preprocessor=_base_.preprocessor, backbone=_base_.backbone)

data_root = _base_.coco_root
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
