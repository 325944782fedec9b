"""Sphinx's settings for the pages in this folder (``make docs``)."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / '_ext'))

from cyborgs_plugin import __version__  # noqa: E402

project = 'cyborgs_plugin'
author = 'CYBORGS plugin contributors'
copyright = f'2026, {author}'  # noqa: A001
version = release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'config_keys',
]
source_suffix = {'.md': 'markdown'}

html_theme = 'furo'
html_title = f'{project} {version}'

# Titles of a page can be linked to as on GitHub, and so can files of the
# repository.
myst_heading_anchors = 4
myst_enable_extensions = ['attrs_inline']

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # docstrings say types, with shapes
autodoc_default_options = {'members': True, 'show-inheritance': True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
