"""COCO Mask R-CNN R50-C4 with the extra batch norm, 90k iterations.

The head on the regions is a list, which mmdet builds as a sequence: stage 4,
then the batch norm.
"""
_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py',
    '_base_/protocol.py'
]

model = dict(
    data_preprocessor=_base_.preprocessor,
    backbone=_base_.backbone,
    roi_head=dict(shared_head=_base_.c4_head))

data_root = _base_.coco_root
train_dataloader = dict(
    batch_size=2,  # per GPU, with 8 GPUs
    dataset=dict(data_root=data_root, pipeline=_base_.mask_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=0.02))
train_cfg = dict(_delete_=True, **_base_.loop_1x)
param_scheduler = _base_.scheduler_1x
default_hooks = dict(checkpoint=_base_.checkpoint_by_iter)
log_processor = dict(by_epoch=False)
