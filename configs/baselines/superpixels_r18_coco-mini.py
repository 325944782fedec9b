"""No bootstrapping: the same model, always with superpixels by their colour.

Clustered by colour and place with as many regions as CYBORGS has, they show
what its features add to masks.
"""
_base_ = 'cyborgs_r18_coco-mini.py'

default_hooks = dict(
    mask_update=dict(
        interval=-1,
        source=dict(
            _delete_=True,
            type='SuperpixelMasks',
            num_clusters=(4, 32),
            linkage='average')))
