"""VOC12aug FCN R50 of stride 8, 20k iterations: DenseCL's protocol.

Run: BACKBONE=FILE bash tools/dist_train.sh THIS_FILE 8
"""
_base_ = '_base_/fcn_r50.py'

data_root = _base_.voc_root + 'VOC2012'
voc = dict(type='PascalVOCDataset', data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(
                **voc,
                ann_file=f'ImageSets/Segmentation/{part}.txt',
                data_prefix=dict(img_path='JPEGImages', seg_map_path=masks),
                pipeline=_base_.train_pipeline)
            for part, masks in (('train', 'SegmentationClass'),
                                ('aug', 'SegmentationClassAug'))
        ]))
val_dataloader = dict(
    dataset=dict(
        **voc,
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(
            img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
