"""Visualization: pictures next to their masks, and pages of them."""
from .contact_sheet import contact_sheet, draw_sheet
from .mask_page import PHOTO_SIDE, PageImage, write_mask_page
from .run_report import Curve, RunReport, write_report

__all__ = [
    'PHOTO_SIDE', 'Curve', 'PageImage', 'RunReport', 'contact_sheet',
    'draw_sheet', 'write_mask_page', 'write_report'
]
