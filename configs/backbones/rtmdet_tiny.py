"""Like cyborgs_small_data.py with the backbone of RTMDet-tiny."""
_base_ = '../cyborgs_small_data.py'

model = dict(
    # Pictures as RTMDet's own configs have them: BGR. A backbone that has
    # learnt from RGB starts wrong there.
    data_preprocessor=dict(
        mean=[103.53, 116.28, 123.675],
        std=[57.375, 57.12, 58.395],
        to_rgb=False),
    backbone=dict(
        _delete_=True,
        type='mmdet.CSPNeXt',
        deepen_factor=0.167,
        widen_factor=0.375,
        out_indices=(2, 3, 4),  # strides 8, 16, 32: 96 + 192 + 384 channels
        act_cfg=dict(type='SiLU', inplace=True)))

custom_imports = dict(imports=['cyborgs_plugin', 'mmdet.models'])
