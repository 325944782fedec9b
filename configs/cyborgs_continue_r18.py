"""Like cyborgs_continue.py with ResNet-18, for a CPU."""
import os

_base_ = 'cyborgs_continue.py'

model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(
            checkpoint=os.environ.get('START', 'torchvision://resnet18'))))
