"""The result of pretraining: backbone files and their checks."""
