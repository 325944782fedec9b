"""Unlabelled photographs in two small views, each with its label map."""
_base_ = 'coco_scenes.py'

train_pipeline = _base_.train_pipeline
for view in train_pipeline[1]['transforms']:
    # A crop of less than a fifth of a small picture is mostly enlargement.
    view[0].update(scale=96, crop_ratio_range=(0.2, 1.0))
    # sigma 2 of 224 pixels
    view[4].update(magnitude_range=(0.1, 0.9))
train_dataloader = dict(
    batch_size=32, num_workers=1, dataset=dict(pipeline=train_pipeline))
