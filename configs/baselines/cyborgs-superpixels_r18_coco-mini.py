"""CYBORGS with masks that follow edges: superpixels by its features."""
_base_ = '../ablations/small-data_superpixels.py'
