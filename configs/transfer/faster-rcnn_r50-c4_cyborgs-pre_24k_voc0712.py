"""VOC07+12 Faster R-CNN R50-C4 with the extra batch norm, 24k iterations.

AP, AP50 and AP75 on VOC07 test, by the 11 points of VOC07.
"""
_base_ = [
    'mmdet::pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py',
    '_base_/protocol.py'
]

model = dict(
    data_preprocessor=_base_.preprocessor,
    backbone=_base_.backbone,
    roi_head=dict(shared_head=_base_.c4_head))

data_root = _base_.voc_root
parts = _base_.train_dataloader.dataset.datasets
for part in parts:
    part.data_root = data_root
train_dataloader = dict(
    batch_size=2,  # per GPU, with 8 GPUs
    # the two years call themselves differently
    dataset=dict(datasets=parts, ignore_keys=['dataset_type']))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=0.02))
train_cfg = dict(max_iters=24000, val_interval=8000)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(
        type='MultiStepLR',
        begin=0,
        end=24000,
        by_epoch=False,
        milestones=[18000, 22000],
        gamma=0.1)
]
default_hooks = dict(checkpoint=dict(interval=8000))
