"""LARS, 800 epochs, two late steps."""
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='TrainedParametersConstructor',
    optimizer=dict(
        type='ForeachLARS',
        lr=0.2,
        momentum=0.9,
        weight_decay=1.5e-6,
        eta=0.001,
        eps=1e-8),
    # 1-D parameters: no decay, no layer-wise scaling
    paramwise_cfg=dict(
        custom_keys={
            'bn': dict(decay_mult=0., lars_exclude=True),
            'bias': dict(decay_mult=0., lars_exclude=True),
            # the batch norm of ResNet's shortcut
            'downsample.1': dict(decay_mult=0., lars_exclude=True)
        }))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True),
    # after epochs 768 and 784 of 800; at the same fractions of other runs
    dict(
        type='LateStepLR',
        by_epoch=True,
        fractions=(0.96, 0.98),
        gamma=0.1,
        convert_to_iter_based=True)
]

train_cfg = dict(by_epoch=True, max_epochs=800)

# The published rate is not scaled by the batch; --auto-scale-lr does that.
auto_scale_lr = dict(base_batch_size=128)
