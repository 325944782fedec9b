"""Like cyborgs_coco.py with RegNetX-3.2GF."""
_base_ = '../cyborgs_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='RegNet',
        arch='regnetx_3.2gf',
        out_indices=(1, 2, 3)))  # 192 + 432 + 1008 channels

# Stage 2 has six blocks; the third, layer2.2, would be in the middle.
default_hooks = dict(mask_update=dict(source=dict(layer='layer2')))
