"""Published behaviour: 16 small batch norms, one for each slot."""
_base_ = '../cyborgs_coco.py'

model = dict(
    neck=dict(type='PublishedMaskGroundedNeck', project_by_slot=True),
    head=dict(type='PublishedMaskContrastHead'))
