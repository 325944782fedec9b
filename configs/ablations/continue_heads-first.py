"""The backbone stands still while the heads, which are new, begin."""
_base_ = '../cyborgs_continue.py'

custom_hooks = [dict(type='DriftHook'), dict(type='HeadsFirstHook')]
