"""Like cyborgs_small_data.py with any network of timm, by its name.

Run: python tools/train.py configs/backbones/timm.py \\
         --cfg-options timm_name=hgnetv2_b0 data=/path/to/photos
"""
_base_ = '../cyborgs_small_data.py'

timm_name = 'mobilenetv4_conv_small'

# tools/train.py sets what is None by what timm knows of the network.
model = dict(
    data_preprocessor=dict(mean=None, std=None),
    backbone=dict(_delete_=True, type='TimmNetwork', out_indices=None),
    neck=dict(grid_stride=None, in_indices=None))
default_hooks = dict(mask_update=dict(source=dict(layer=None)))
