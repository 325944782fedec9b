"""Ground truth as masks: an upper bound, not a method."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(
    mask_update=dict(
        interval=-1,
        source=dict(
            _delete_=True,
            type='AnnotatedMasks',
            ann_file='data/coco/annotations/instances_train2017.json',
            key_prefix='train2017/')))
