"""An upper bound: the same model, always with ground-truth masks.

Only annotated pictures have such masks: compare with a run on only these.
"""
_base_ = 'cyborgs_r18_coco-mini.py'

ann_file = 'data/coco/annotations/instances_train2017.json'
train_dataloader = dict(dataset=dict(ann_file=ann_file))
default_hooks = dict(
    mask_update=dict(
        interval=-1,
        source=dict(
            _delete_=True,
            type='AnnotatedMasks',
            ann_file=ann_file,
            key_prefix='train2017/')))
