"""CYBORGS on COCO train2017 without labels: the published recipe.

Run: python tools/train.py configs/cyborgs_coco.py
     bash tools/dist_train.sh configs/cyborgs_coco.py 8
"""
_base_ = [
    '_base_/models/cyborgs_resnet50.py',
    '_base_/datasets/coco_scenes.py',
    '_base_/schedules/lars_800e.py',
    '_base_/default_runtime.py',
]

default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=10, max_keep_ckpts=3),
    target_update=dict(type='TargetUpdateHook'),
    # settings of the masks: ablations change these
    mask_update=dict(
        type='MaskUpdateHook',
        interval=100,
        group_size=16,
        source=dict(
            type='NetworkMasks',
            layer='layer2.2',
            num_clusters=(2, 256),
            num_iters=20)))
