"""DetCon-B: the same model, always with Felzenszwalb's masks."""
_base_ = 'cyborgs_r18_coco-mini.py'

default_hooks = dict(
    mask_update=dict(
        interval=-1,
        source=dict(
            _delete_=True,
            type='FelzenszwalbMasks',
            # DetCon's 1000 for pictures of 640 pixels, at 320
            scale=500,
            min_size=250)))
