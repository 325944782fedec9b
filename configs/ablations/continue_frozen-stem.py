"""The stem and the first stage are frozen."""
_base_ = '../cyborgs_continue.py'

model = dict(backbone=dict(frozen_stages=1))
