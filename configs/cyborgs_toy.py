"""The embedded default: ResNet-18 on toy scenes, minutes on a CPU.

Run: python tools/dataset_converters/make_toy_scenes.py
     python tools/train.py configs/cyborgs_toy.py
"""
_base_ = 'cyborgs_coco.py'

data_root = 'data/toy_scenes/'
# ResNet-18: its stages have 128, 256 and 512 channels; layer2 has two blocks.
model = dict(
    backbone=dict(depth=18),
    neck=dict(
        # 96 pixels are 6x6 cells of 16 pixels
        grid_stride=16,
        projector=dict(in_channels=896, hid_channels=512, out_channels=128)),
    head=dict(
        predictor=dict(in_channels=128, hid_channels=512, out_channels=128)))

train_pipeline = _base_.train_pipeline
for view in train_pipeline[1]['transforms']:
    view[0].update(scale=96, crop_ratio_range=(0.2, 1.0))
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(data_root=data_root, pipeline=train_pipeline))

# A batch of 32 wants a rate of its own: AdamW needs no tuning per layer.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=2,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=2,
        end=30,
        convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=30)

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=1, max_keep_ckpts=2),
    mask_update=dict(
        interval=10,
        source=dict(layer='layer2.1', num_clusters=(4, 16))))
custom_hooks = [dict(type='MaskVisualizationHook')]
