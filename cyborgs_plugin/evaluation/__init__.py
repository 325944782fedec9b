"""Evaluation: frozen probes and the quality of masks."""
