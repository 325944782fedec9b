"""ADE20K FCN R50 of stride 8, 80k iterations: SlotCon's protocol.

Run: BACKBONE=FILE bash tools/dist_train.sh THIS_FILE 8
"""
_base_ = '_base_/fcn_r50.py'

model = dict(
    decode_head=dict(num_classes=150), auxiliary_head=dict(num_classes=150))

data_root = _base_.ade_root
train_dataloader = dict(
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'),
        pipeline=_base_.train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
