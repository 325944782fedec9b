"""Published behaviour: ids from 81 on become region 0."""
_base_ = '../cyborgs_coco.py'

model = dict(neck=dict(type='PublishedMaskGroundedNeck', num_ids=81))
