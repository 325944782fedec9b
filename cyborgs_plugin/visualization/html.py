"""HTML pages of one file each, which need no network and no server."""
import base64
import hashlib
import json
import os
import os.path as osp
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from ..files import written_aside


def fill(name: str, title: str, **parts: Any) -> str:
    """Fill a template of ``pages/`` with its style, script and content.

    ``NAME.html`` has ``$title``, ``$style``, ``$script`` and ``$policy``,
    which lets the browser run no other script and load nothing, and one
    ``$part`` for each of the parts.

    Args:
        name (str): Of the template.
        title (str): Text; it is escaped.
        **parts (Any): By their names in the template: HTML as :class:`Html`,
            anything else as JSON for a ``<script type="application/json">``.

    Returns:
        str: The page.
    """
    folder = files(__package__) / 'pages'
    style = (folder / 'style.css').read_text(encoding='utf-8')
    file = folder / f'{name}.js'
    script = file.read_text(encoding='utf-8') if file.is_file() else ''
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
    policy = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
              f"script-src 'sha256-{digest.decode()}'")
    template = (folder / f'{name}.html').read_text(encoding='utf-8')
    return Template(template).substitute(
        title=escape(title), style=style, script=script, policy=policy,
        **{
            part: value if isinstance(value, Html) else json_text(value)
            for part, value in parts.items()
        })


class Html(str):
    """Text that is HTML already, in which all values were escaped."""


def json_text(value: Any) -> str:
    """JSON that no HTML parser takes for the end of its element."""
    text = json.dumps(value, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace(
        '&', '\\u0026')


def write_page(page: str, out_file: str) -> int:
    """Write a page, whole or not at all.

    Args:
        page (str): Its HTML. What UTF-8 cannot hold, such as parts of file
            names that are no UTF-8, becomes a character reference.
        out_file (str): Its path.

    Returns:
        int: Its size, in bytes.
    """
    os.makedirs(osp.dirname(out_file) or '.', exist_ok=True)
    content = page.encode('utf-8', 'xmlcharrefreplace')
    with written_aside(out_file) as partial, open(partial, 'wb') as file:
        file.write(content)
    return len(content)
