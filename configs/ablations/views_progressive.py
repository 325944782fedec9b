"""Views grow from 160 to 224 pixels during three quarters of the epochs."""
_base_ = '../cyborgs_coco.py'

custom_hooks = [dict(type='ViewSizeHook', start=160, step=32, until=0.75)]
