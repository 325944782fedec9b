"""DenseCL: mmpretrain's own classes."""
_base_ = [
    '../_base_/datasets/small_image_views.py',
    '../_base_/schedules/adamw_18e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='DenseCL',
    # Less than the pictures of an epoch, so that no picture meets itself as a
    # negative; a multiple of the batch.
    queue_len=2048,
    feat_dim=128,
    momentum=0.01,
    loss_lambda=0.5,
    data_preprocessor=dict(
        type='SelfSupDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='ResNet',
        depth=18,
        norm_cfg=dict(type='BN'),
        zero_init_residual=False),
    neck=dict(
        type='DenseCLNeck',
        in_channels=512,
        hid_channels=512,
        out_channels=128,
        num_grid=None),
    head=dict(
        type='ContrastiveHead',
        loss=dict(type='CrossEntropyLoss'),
        temperature=0.2))
find_unused_parameters = True

# the best of 3e-4, 1e-3 and 3e-3 on all three probes (docs/results.md)
optim_wrapper = dict(optimizer=dict(lr=3e-4))

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=3, max_keep_ckpts=2))
# The dense loss starts after a tenth of the steps: its own 1,000 steps are a
# small part of DenseCL's schedule, but half of this one.
custom_hooks = [dict(type='DenseCLHook', start_iters=160)]
