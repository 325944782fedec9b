"""Like cyborgs_continue.py with ResNet-18, for a CPU."""
_base_ = 'cyborgs_continue.py'

import os

model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(
            checkpoint=os.environ.get('START', 'torchvision://resnet18'))))
