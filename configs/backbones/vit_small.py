"""As convnext_tiny.py with ViT-S/16."""
_base_ = 'convnext_tiny.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch='deit-small',  # mmpretrain's own 'small' is 768 wide
        patch_size=16,
        # after 3, 6, 9 and 12 blocks: 384 channels each
        out_indices=(2, 5, 8, 11),
        out_type='featmap'),
    # All maps have a stride of 16: a view of 224 pixels has 14x14 cells.
    neck=dict(grid_stride=16))

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            cls_token=dict(decay_mult=0.), pos_embed=dict(decay_mult=0.))))

# after 9 of 12 blocks; cells of 16 pixels, in place of 8
default_hooks = dict(mask_update=dict(source=dict(layer='layers.8')))
