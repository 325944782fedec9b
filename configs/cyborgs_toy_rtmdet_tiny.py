"""RTMDet-tiny's backbone on toy scenes: what `make demo` pretrains.

Run: python tools/dataset_converters/make_toy_scenes.py
     python tools/train.py configs/cyborgs_toy_rtmdet_tiny.py
"""
_base_ = 'backbones/rtmdet_tiny.py'

data_root = 'data/toy_scenes/'
# half the batch of the recipe: twice the steps in the same time
train_dataloader = dict(batch_size=16, dataset=dict(data_root=data_root))

train_cfg = dict(max_epochs=8)

# docs/toy_scenes.md has the measurements that led to these.
default_hooks = dict(
    checkpoint=dict(interval=1),
    mask_update=dict(
        interval=3,
        source=dict(
            num_clusters=8,
            linkage=None,  # k-means: here it is better than merging
            kmeans_init='k-means++',
            # scenes of about 160 pixels, twice as large
            smooth=16,
            long_side=320)))
custom_hooks = [dict(type='MaskVisualizationHook')]
