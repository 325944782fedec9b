"""Like cyborgs_coco.py with ConvNeXt-T and AdamW."""
_base_ = '../cyborgs_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='ConvNeXt',
        arch='tiny',
        # All four stages, 96 + 192 + 384 + 768 channels: a detector's FPN uses
        # the norm after each, which is trained only in this way.
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False),
    neck=dict(in_indices=(0, 1, 2, 3)))

# LARS is for batch norms. The rate is DINO's, 5e-4 for 256 pictures.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2.5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=3.0),
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        flat_decay_mult=0.))

param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
]

default_hooks = dict(mask_update=dict(source=dict(layer='stages.1')))
