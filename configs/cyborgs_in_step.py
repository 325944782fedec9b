"""Masks that each step makes for itself: no mask rounds and no mask bank.

Run: python tools/train.py configs/cyborgs_in_step.py \\
         --cfg-options data=/path/to/photos
"""
_base_ = 'cyborgs_small_data.py'

# docs/mask_update.md: what it does and costs
model = dict(
    in_step_masks=dict(
        type='InStepMasks',
        num_clusters=(16, 4),  # at the first step and at the last
        num_iters=5))
train_dataloader = dict(dataset=dict(with_masks=False))
default_hooks = dict(
    _delete_=True,
    **{
        name: hook
        for name, hook in _base_.default_hooks.items()
        if name != 'mask_update'
    })
