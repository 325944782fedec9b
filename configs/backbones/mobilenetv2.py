"""Like cyborgs_small_data.py with MobileNetV2."""
_base_ = '../cyborgs_small_data.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        # Strides 8, 16, 32: 32 + 96 + 1280 channels. The last is conv2, so
        # that no layer is left untrained, which several ranks would refuse.
        out_indices=(2, 4, 7)))

default_hooks = dict(
    mask_update=dict(source=dict(layer='layer3')))  # the end of stride 8
