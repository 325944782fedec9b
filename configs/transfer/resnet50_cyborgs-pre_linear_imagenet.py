"""ImageNet-1k linear classification on the frozen backbone (mmpretrain).

Run: BACKBONE=FILE bash tools/dist_train.sh THIS_FILE 8
"""
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmpretrain::_base_/schedules/imagenet_sgd_coslr_100e.py',
    'mmpretrain::_base_/default_runtime.py', '_base_/protocol.py'
]

import os

model = dict(
    backbone=dict(
        frozen_stages=4,  # and its batch norms keep their statistics
        norm_eval=True,
        init_cfg=_base_.pretrained))

data_root = os.environ.get('IMAGENET_ROOT', 'data/imagenet') + '/'
# 32 images on each of 8 GPUs: 256
train_dataloader = dict(batch_size=32, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=0.3, momentum=0.9, weight_decay=0.))
# the base's 100 epochs, but to the end of a run of any length
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True)]
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=3))
