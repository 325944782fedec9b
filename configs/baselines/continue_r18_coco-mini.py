"""On from weights that are good already: what the others have to reach.

Run with START=FILE before the command, as cyborgs_continue_r18.py.
"""
_base_ = '../cyborgs_continue_r18.py'
