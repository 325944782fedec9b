"""The backbone does not train while the new heads begin."""
_base_ = '../cyborgs_continue.py'

custom_hooks = [dict(type='DriftHook'), dict(type='HeadsFirstHook')]
