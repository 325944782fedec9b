"""Masks that follow edges: settings for the `source` of a recipe.

    _base_ = ['cyborgs_continue.py', '_base_/masks/superpixels.py']
    default_hooks = dict(mask_update=dict(source=_base_.superpixel_masks))
"""
# docs/mask_update.md: how the weights were chosen
superpixel_masks = dict(
    superpixels=dict(type='Felzenszwalb'),
    position_weight=0.6,
    colour_weight=0.6,
    plain_weight=0.6,
    kmeans_init='k-means++')
