"""AdamW, 18 epochs, cosine: a batch of 32 needs no tuning per layer."""
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=2,
        convert_to_iter_based=True),
    # From the first step to the last, whatever train_cfg.max_epochs is: the
    # rate is the product of both.
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
]

train_cfg = dict(by_epoch=True, max_epochs=18)
auto_scale_lr = dict(base_batch_size=32)
