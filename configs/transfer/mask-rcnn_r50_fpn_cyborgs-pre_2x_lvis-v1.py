"""LVIS v1 Mask R-CNN R50-FPN, 180k iterations, from a published backbone.

Repeat-factor sampling at 0.001, 300 detections, score threshold 1e-4 (all
three as in mmdet's own config). The evaluation needs the package lvis.
"""
_base_ = [
    'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py',
    '_base_/protocol.py'
]

model = dict(
    data_preprocessor=_base_.preprocessor,
    backbone=_base_.backbone,
    neck=dict(norm_cfg=_base_.sync_norm))

data_root = _base_.lvis_root
train_dataloader = dict(
    batch_size=2,  # per GPU, with 8 GPUs
    dataset=dict(
        oversample_thr=1e-3,
        dataset=dict(data_root=data_root, pipeline=_base_.mask_pipeline)))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/lvis_v1_val.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=0.02))
train_cfg = dict(_delete_=True, **_base_.loop_2x)
param_scheduler = _base_.scheduler_2x
default_hooks = dict(checkpoint=_base_.checkpoint_by_iter)
log_processor = dict(by_epoch=False)
