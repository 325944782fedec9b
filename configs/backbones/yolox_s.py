"""Like cyborgs_small_data.py with the backbone of YOLOX-s."""
_base_ = '../cyborgs_small_data.py'

model = dict(
    # Pictures as YOLOX has them: BGR of 0 to 255.
    data_preprocessor=dict(
        mean=[0., 0., 0.], std=[1., 1., 1.], to_rgb=False),
    backbone=dict(
        _delete_=True,
        type='mmdet.CSPDarknet',
        deepen_factor=0.33,
        widen_factor=0.5,
        out_indices=(2, 3, 4),  # strides 8, 16, 32: 128 + 256 + 512 channels
        act_cfg=dict(type='Swish')))

custom_imports = dict(imports=['cyborgs_plugin', 'mmdet.models'])
