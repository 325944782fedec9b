"""Like cyborgs_coco.py with ResNet-101.

It has the same widths, strides and mask layer as ResNet-50, and more blocks in
stage 3.
"""
_base_ = '../cyborgs_coco.py'

model = dict(backbone=dict(depth=101))
