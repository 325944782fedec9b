"""The backbone of the others, taught by a network that is already good.

Run with TEACHER=FILE before the command, as cyborgs_distill_r18.py.
"""
_base_ = '../cyborgs_distill_r18.py'
