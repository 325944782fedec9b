"""Distil a strong teacher into a detector's backbone, on your photographs.

Run: TEACHER=dinov2_vits14_pretrain.pth python tools/train.py \\
         configs/cyborgs_distill.py --cfg-options data=/path/to/photos

The teacher makes the masks and the targets; it is not needed afterwards. Here
it is DINOv2's ViT-S/14, through timm (pip install timm). Its file is
https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth
or timm/vit_small_patch14_dinov2.lvd142m on the Hugging Face Hub; nothing is
downloaded for you.
"""
_base_ = [
    '_base_/models/cyborgs_resnet50.py',
    '_base_/datasets/small_scenes.py',
    '_base_/schedules/adamw_18e.py',
    '_base_/default_runtime.py',
]

import os

# For another teacher, set its config and widths (neck.projector.out_channels),
# the layer of its masks, and the image size that suits it best.
teacher = dict(
    type='TIMMBackbone',
    model_name='vit_small_patch14_dinov2',
    features_only=True,
    out_indices=(5, 8, 11),  # after 6, 9 and 12 blocks: 384 channels each
    img_size=518,  # of its position embeddings, resized to each view
    dynamic_img_size=True,
    dynamic_img_pad=True)
file = os.environ.get('TEACHER', 'dinov2_vits14_pretrain.pth')

model = dict(
    _delete_=True,
    type='RegionDistillation',
    data_preprocessor=_base_.model.data_preprocessor,
    # From scratch; init_cfg=dict(type='Pretrained', ...) starts from weights.
    backbone=_base_.model.backbone,
    teacher=dict(
        type='FrozenTeacher', backbone=teacher, checkpoint=file,
        input_size=224),
    neck=dict(
        type='MaskGroundedNeck',
        num_regions=16,
        grid_stride=16,  # a view of 96 pixels has 6x6 cells
        in_indices=(0, 1, 2),
        # Linear, so that the backbone learns rather than the projector.
        projector=dict(
            type='LinearNeck',
            out_channels=1152,
            norm_cfg=None)),
    head=dict(
        type='DistillationHead',
        # each cell, in the same view
        cell_loss=dict(type='CellDistillationLoss', loss_weight=1.0),
        # each region, in the other view
        region_loss=dict(
            type='MaskContrastiveLoss', temperature=0.1, loss_weight=0.1)))

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=3, max_keep_ckpts=2),
    mask_update=dict(
        type='MaskUpdateHook',
        interval=-1,  # a frozen teacher makes the same masks again
        group_size=16,
        source=dict(
            type='NetworkMasks',
            backbone=teacher,
            checkpoint=file,
            layer='timm_model.model.blocks.8',
            num_clusters=(4, 32),
            num_iters=20,
            smooth=32,
            long_side=630)))
