"""CYBORGS with ResNet-50 as published."""
model = dict(
    type='CYBORGS',
    # decay 0.996, constant
    target_ema=dict(type='ForeachEMA', momentum=0.004),
    data_preprocessor=dict(
        type='SceneDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='ResNet',
        depth=50,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN'),
        zero_init_residual=False),
    neck=dict(
        type='MaskGroundedNeck',
        num_regions=16,
        grid_stride=32,
        in_indices=(0, 1, 2),
        projector=dict(
            type='NonLinearNeck',
            # in_channels follows from the backbone: 512 + 1024 + 2048 = 3584
            hid_channels=4096,
            out_channels=256,
            num_layers=2,
            with_bias=True,
            with_last_bn=False,
            with_last_bias=True,
            with_avg_pool=False,
            norm_cfg=dict(type='BN1d'))),
    head=dict(
        type='MaskContrastHead',
        predictor=dict(
            type='NonLinearNeck',
            in_channels=256,
            hid_channels=4096,
            out_channels=256,
            num_layers=2,
            with_bias=True,
            with_last_bn=False,
            with_last_bias=True,
            with_avg_pool=False,
            norm_cfg=dict(type='BN1d')),
        loss=dict(
            type='MaskContrastiveLoss', temperature=0.1, local_negatives=True),
        # weight 0 in the published run
        segmentation_loss=dict(type='VMFSegmentationLoss', loss_weight=0.)))

# batch norms use all ranks if the device allows it
sync_bn = 'torch'
