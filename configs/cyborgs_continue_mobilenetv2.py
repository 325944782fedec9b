"""Like cyborgs_continue.py with MobileNetV2, as continue_from.py uses it."""
_base_ = 'cyborgs_continue.py'

import os

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),  # strides 8, 16, 32: 32, 96, 320 channels
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint=os.environ.get('START', 'mobilenet_v2.pth'))))
