"""Like rtmdet_tiny.py with the backbone of RTMDet-s."""
_base_ = 'rtmdet_tiny.py'

# 128 + 256 + 512 channels
model = dict(backbone=dict(deepen_factor=0.33, widen_factor=0.5))
