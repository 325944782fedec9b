"""The embedded default: ResNet-18 on toy scenes, minutes on a CPU.

Run: python tools/dataset_converters/make_toy_scenes.py
     python tools/train.py configs/cyborgs_toy.py
"""
_base_ = 'cyborgs_small_data.py'

data_root = 'data/toy_scenes/'
train_dataloader = dict(dataset=dict(data_root=data_root))

train_cfg = dict(max_epochs=30)

# docs/toy_scenes.md has the measurements that led to these.
default_hooks = dict(
    checkpoint=dict(interval=1),
    mask_update=dict(
        interval=10,
        source=dict(
            num_clusters=8,  # in every round, so that they can be compared
            linkage=None,  # k-means: here it is better than merging
            kmeans_init='k-means++',
            # scenes of about 160 pixels, three times as large
            smooth=24,
            long_side=480)))
custom_hooks = [dict(type='MaskVisualizationHook')]
