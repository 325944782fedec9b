"""Unlabelled COCO photographs in two views, each with its label map."""
dataset_type = 'SceneDataset'
data_root = '{{$COCO_ROOT:data/coco}}/'

view_pipeline1 = [
    dict(
        type='MaskedRandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.08, 1.0),
        aspect_ratio_range=(3. / 4., 4. / 3.),
        interpolation='bicubic',
        backend='torch'),
    dict(type='FastRandomFlip', prob=0.5),
    dict(
        type='RandomApply',
        transforms=[
            dict(
                type='FastColorJitter',
                brightness=0.4,
                contrast=0.4,
                saturation=0.2,
                hue=0.1)
        ],
        prob=0.8),
    dict(
        type='FastRandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989)),
    dict(
        type='FastGaussianBlur',
        magnitude_range=(0.1, 2.0),
        magnitude_std='inf',
        prob=1.),
    dict(type='FastSolarize', thr=128, prob=0.)
]
view_pipeline2 = [
    *view_pipeline1[:-2],
    dict(
        type='FastGaussianBlur',
        magnitude_range=(0.1, 2.0),
        magnitude_std='inf',
        prob=0.1),
    dict(type='FastSolarize', thr=128, prob=0.2)
]
train_pipeline = [
    dict(type='LoadSceneImage'),
    dict(
        type='MaskedMultiView',
        num_views=[1, 1],
        transforms=[view_pipeline1, view_pipeline2]),
    dict(type='FastPackInputs')
]

train_dataloader = dict(
    batch_size=16,  # per GPU, with 8 GPUs
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='SceneSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='train2017/'),
        pipeline=train_pipeline))
