"""CYBORGS with masks that each step makes for itself, and no mask rounds."""
_base_ = '../cyborgs_in_step.py'
