"""RTMDet-tiny on the toy scenes from a pretrained backbone, on a CPU.

Imports nothing of cyborgs_plugin: mmdet alone runs it.
Run: BACKBONE=FILE python tools/train.py THIS_FILE
"""
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'

import os

data_root = 'data/toy_scenes/'
classes = ('disc', 'box', 'triangle', 'star', 'ring', 'cross')
metainfo = dict(classes=classes)

norm_cfg = dict(type='BN')  # of one process
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        norm_cfg=norm_cfg,
        init_cfg=dict(
            checkpoint=os.environ.get('BACKBONE',
                                      'work_dirs/demo/backbone.pth'))),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=len(classes), norm_cfg=norm_cfg),
    test_cfg=dict(nms_pre=300, max_per_img=30))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 104), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 104), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root, metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=9, val_interval=9, dynamic_intervals=None)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=10.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
]
# too short a run for an average of weights or a change of the pipeline
custom_hooks = []
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1))
randomness = dict(seed=0)
