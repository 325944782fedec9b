"""The views of small_scenes.py without label maps, for other methods.

The same crops, flips and colours, drawn from the same pictures in the same
order: only the masks are missing.
"""
_base_ = 'small_scenes.py'

train_pipeline = _base_.train_pipeline
train_pipeline[1]['type'] = 'MultiView'
for view in train_pipeline[1]['transforms']:
    view[0]['type'] = 'FastRandomResizedCrop'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=_base_.data_root,
        data_prefix='train2017/',
        with_label=False,
        pipeline=train_pipeline))
