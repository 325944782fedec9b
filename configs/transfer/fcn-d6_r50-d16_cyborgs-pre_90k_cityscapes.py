"""Cityscapes FCN R50 of stride 16, 90k iterations: the protocol of SlotCon.

MoCo's before it: a head of dilation 6 without an auxiliary one, and colours as
they are. Run: BACKBONE=FILE bash tools/dist_train.sh THIS_FILE 8
"""
_base_ = 'fcn_r50-d8_cyborgs-pre_40k_cityscapes.py'

model = dict(
    backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=_base_.head_of_stride_16,
    auxiliary_head=None)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        scale=(2049, 1025),
        ratio_range=(0.5, 2.0),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=(769, 769)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_iters=90000, val_interval=9000)
optim_wrapper = dict(optimizer=dict(weight_decay=0.0001))
param_scheduler = [
    dict(
        type='MultiStepLR',
        begin=0,
        end=90000,
        by_epoch=False,
        milestones=[63000, 81000],
        gamma=0.1)
]
default_hooks = dict(checkpoint=dict(interval=9000))
