"""Visualization: pictures next to their masks."""
from .contact_sheet import contact_sheet, draw_sheet

__all__ = ['contact_sheet', 'draw_sheet']
