"""The stem and the first stage stay as they came."""
_base_ = '../cyborgs_continue.py'

model = dict(backbone=dict(frozen_stages=1))
