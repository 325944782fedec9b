"""Continue from weights that are already good, on your own photographs.

Run: START=weights.pth python tools/train.py configs/cyborgs_continue.py \\
         --cfg-options data=/path/to/photos

Without START, mmengine downloads torchvision's ImageNet weights.
docs/continue.md measures what each setting does to such weights.
"""
# masks of cells, as measured: with superpixels, features gained no more
_base_ = 'ablations/small-data_cells.py'

import os

model = dict(
    backbone=dict(
        depth=50,
        norm_eval=True,  # the statistics of its batch norms stay
        init_cfg=dict(
            type='Pretrained',
            checkpoint=os.environ.get('START', 'torchvision://resnet50'))),
    # Regions predict those of the network at the start.
    target_ema=dict(_delete_=True, type='FrozenTarget'),
    # Features stay close: less of it improves segments and worsens regions.
    head=dict(anchor_loss=dict(type='FeatureAnchorLoss', loss_weight=5.0)))

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(backbone=dict(lr_mult=0.1)),  # the heads are new
        norm_decay_mult=0.,
        bias_decay_mult=0.))

train_cfg = dict(max_epochs=8)
param_scheduler = _base_.param_scheduler
param_scheduler[0]['end'] = 1  # the warm-up: one epoch

default_hooks = dict(
    checkpoint=dict(interval=1),
    # Good features make good masks at once: round 0 is kept.
    mask_update=dict(interval=-1))
custom_hooks = [dict(type='DriftHook')]
