"""A small Faster R-CNN on the objects that a round has found, without labels.

MASKS_JSON is what tools/export_masks.py writes of a run on the toy scenes. The
checkpoint is a load_from for faster-rcnn_cspnext-tiny_fpn_random_toy.py.
Run: BACKBONE=FILE MASKS_JSON=OUT.json python tools/train.py THIS_FILE
"""
_base_ = ['faster-rcnn_cspnext-tiny_fpn_cyborgs-pre_toy.py',
          '_base_/class_agnostic.py']

model = dict(roi_head=dict(bbox_head=dict(num_classes=1)))
train_dataloader = dict(dataset=_base_.found_objects)
# no labels to score on
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
