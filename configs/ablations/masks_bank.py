"""Masks of another run, never renewed; set path to its round."""
_base_ = '../cyborgs_coco.py'

default_hooks = dict(
    mask_update=dict(
        interval=-1,
        source=dict(
            _delete_=True,
            type='BankMasks',
            path='work_dirs/cyborgs_coco/masks/round_0007')))
