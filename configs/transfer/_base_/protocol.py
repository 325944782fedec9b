"""Values that the transfer configs share; each config puts them in place.

No key of the Runner is set here: mmdet's own base sets those, and two bases
must not set the same one. Python reads environment variables: mmengine's own
form would paste a file name into the text of the config.
"""
_base_ = []

import os

# The file of tools/model_converters/publish_backbone.py. Its keys carry the
# architecture's name, so that mmengine itself refuses any other file.
pretrained = dict(
    type='Pretrained',
    checkpoint=os.environ.get('BACKBONE', 'work_dirs/backbone.pth'),
    prefix='resnet50.')
supervised = dict(type='Pretrained', checkpoint='torchvision://resnet50')

coco_root = os.environ.get('COCO_ROOT', 'data/coco') + '/'
lvis_root = os.environ.get('LVIS_ROOT', 'data/lvis_v1') + '/'
voc_root = os.environ.get('VOC_ROOT', 'data/VOCdevkit') + '/'
cityscapes_root = os.environ.get('CITYSCAPES_ROOT', 'data/cityscapes') + '/'
ade_root = os.environ.get('ADE_ROOT', 'data/ade/ADEChallengeData2016') + '/'

# batch norms use all ranks and are trained; nothing is frozen
sync_norm = dict(type='SyncBN', requires_grad=True)
backbone = dict(
    frozen_stages=-1,
    norm_cfg=sync_norm,
    norm_eval=False,
    style='pytorch',
    init_cfg=pretrained)
# the statistics of the pretraining, RGB
preprocessor = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True)
# stage 4 as the head of C4 detectors, and the extra batch norm after it
c4_head = [
    dict(
        type='ResLayer',
        depth=50,
        stage=3,
        stride=2,
        style='pytorch',
        norm_cfg=sync_norm,
        norm_eval=False,
        init_cfg=pretrained),
    dict(type='SyncBN', num_features=2048)
]
# SlotCon's head of a segmentor of stride 16, as MoCo's
head_of_stride_16 = dict(
    channels=256,
    concat_input=False,
    dropout_ratio=0,
    dilation=6,
    align_corners=True)

multi_scale = dict(
    type='RandomChoiceResize',
    scales=[(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768),
            (1333, 800)],
    keep_ratio=True)
mask_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    multi_scale,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]

# 1x and 2x in iterations of 16 images, as in detectron2
loop_1x = dict(
    type='IterBasedTrainLoop', max_iters=90000, val_interval=30000)
loop_2x = dict(
    type='IterBasedTrainLoop', max_iters=180000, val_interval=60000)
warm_up = dict(
    type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500)
scheduler_1x = [
    warm_up,
    dict(
        type='MultiStepLR',
        begin=0,
        end=90000,
        by_epoch=False,
        milestones=[60000, 80000],
        gamma=0.1)
]
scheduler_2x = [
    warm_up,
    dict(
        type='MultiStepLR',
        begin=0,
        end=180000,
        by_epoch=False,
        milestones=[120000, 160000],
        gamma=0.1)
]
checkpoint_by_iter = dict(by_epoch=False, interval=10000, max_keep_ckpts=3)
