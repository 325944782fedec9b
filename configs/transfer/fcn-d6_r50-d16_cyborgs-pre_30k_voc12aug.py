"""VOC12aug FCN R50 of stride 16, 30k iterations: the protocol of SlotCon.

MoCo's before it: a head of dilation 6 without an auxiliary one, and colours as
they are. Run: BACKBONE=FILE bash tools/dist_train.sh THIS_FILE 8
"""
_base_ = 'fcn_r50-d8_cyborgs-pre_20k_voc12aug.py'

crop_size = (513, 513)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=_base_.head_of_stride_16,
    auxiliary_head=None)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(2049, 513),
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2049, 513), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
parts = _base_.train_dataloader.dataset.datasets
for part in parts:
    part.pipeline = train_pipeline
train_dataloader = dict(dataset=dict(datasets=parts))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=30000, val_interval=3000)
optim_wrapper = dict(optimizer=dict(lr=0.003, weight_decay=0.0001))
param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=30000,
        by_epoch=False,
        milestones=[21000, 27000],
        gamma=0.1)
]
default_hooks = dict(checkpoint=dict(interval=3000))
