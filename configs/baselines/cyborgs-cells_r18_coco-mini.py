"""CYBORGS with masks of cells, as published."""
_base_ = '../ablations/small-data_cells.py'
