"""Like convnext_tiny.py, also in widths and mask layer, with Swin-T."""
_base_ = 'convnext_tiny.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        # views of less than 224 pixels end in maps smaller than a window
        pad_small_map=True))

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.))))
