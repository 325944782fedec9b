"""A starting point for a few thousand pictures: ResNet-18, small views.

Run: python tools/train.py configs/cyborgs_small_data.py \\
         --cfg-options data=/path/to/photos
"""
_base_ = [
    '_base_/models/cyborgs_resnet50.py',
    '_base_/datasets/small_scenes.py',
    '_base_/schedules/adamw_18e.py',
    '_base_/default_runtime.py',
]

# docs/small_data.md: how to adapt these to the number of pictures, and the
# measurements that led to them
model = dict(
    target_ema=dict(momentum=0.01),  # decay 0.99: the run is short
    backbone=dict(depth=18),
    neck=dict(
        grid_stride=16,  # a view of 96 pixels has 6x6 cells
        projector=dict(hid_channels=512, out_channels=128)),
    head=dict(
        predictor=dict(in_channels=128, hid_channels=512, out_channels=128)))

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=3, max_keep_ckpts=2),
    target_update=dict(type='TargetUpdateHook'),
    mask_update=dict(
        type='MaskUpdateHook',
        interval=3,
        group_size=1,  # each photograph has regions of its own
        source=dict(
            type='NetworkMasks',
            # layer is chosen: for ResNet-18, the end of stage 2
            num_clusters=(4, 32),
            # Superpixels follow edges, and merged they keep large even areas
            # whole.
            superpixels=dict(type='Felzenszwalb'),
            linkage='average',
            position_weight=0.6,
            colour_weight=0.6,
            plain_weight=0.6,
            reflect=32,  # so that the border is not a region
            smooth=32,  # without it masks do not improve
            long_side=640)))
