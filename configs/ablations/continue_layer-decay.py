"""Lower rates for earlier layers, whose features are the most general."""
_base_ = '../cyborgs_continue.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.0125),  # the stem
            'backbone.layer1': dict(lr_mult=0.0125),
            'backbone.layer2': dict(lr_mult=0.025),
            'backbone.layer3': dict(lr_mult=0.05),
            'backbone.layer4': dict(lr_mult=0.1)
        }))
