"""Published behaviour: empty regions fill slots and act as any region."""
_base_ = '../cyborgs_coco.py'

# 256: the ids that a round of masks can hold, so that none is cut off
model = dict(
    neck=dict(
        type='PublishedMaskGroundedNeck', empty_regions=True, num_ids=256))
