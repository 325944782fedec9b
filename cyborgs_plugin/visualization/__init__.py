"""Visualization: pictures beside their masks."""
from .contact_sheet import contact_sheet

__all__ = ['contact_sheet']
