"""Round 0 by colour, with DetCon's parameters."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(
    mask_update=dict(
        initial=dict(
            type='FelzenszwalbMasks', scale=1000, sigma=0.8, min_size=1000)))
