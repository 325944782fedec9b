"""Like cyborgs_coco.py with ResNeXt-50 32x4d.

It has the same widths, strides and mask layer as ResNet-50, but groups in the
blocks.
"""
_base_ = '../cyborgs_coco.py'

model = dict(backbone=dict(type='ResNeXt', groups=32, width_per_group=4))
