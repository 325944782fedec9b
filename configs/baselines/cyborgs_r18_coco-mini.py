"""CYBORGS among its baselines: all of them share data, steps and optimiser."""
_base_ = '../cyborgs_small_data.py'
