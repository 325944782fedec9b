"""The teacher sees each picture once, whole, and not each view."""
_base_ = '../cyborgs_distill.py'

default_hooks = dict(teacher_features=dict(type='TeacherFeaturesHook'))
