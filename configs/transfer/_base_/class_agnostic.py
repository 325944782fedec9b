"""What a detector needs that learns a round's objects; see protocol.py.

MASKS_JSON is what tools/export_masks.py writes of a run.
"""
_base_ = []

import os

found_objects = dict(
    ann_file=os.path.abspath(os.environ.get('MASKS_JSON', 'masks.json')),
    data_prefix=dict(img=''),  # names in it begin at the data_root
    metainfo=dict(classes=('object', )))
one_class = dict(
    bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1))
