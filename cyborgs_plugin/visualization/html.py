"""HTML pages of one file each, which need no network and no server."""
import base64
import hashlib
import json
import os
import os.path as osp
from collections.abc import Sequence
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


def section(name: str, body: str) -> str:
    """A part of a page under its heading; the body is HTML."""
    return f'<section><h2>{escape(name)}</h2>{body}</section>\n'


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f'<p>{escape(text)}</p>' if text else ''


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; the columns of numbers are set right."""
    kinds = [
        ' class="number"' if all(
            isinstance(row[column], (int, float)) for row in rows) else ''
        for column in range(len(head))
    ]
    cells = [
        ''.join(f'<td{kind}>{escape(_said(value))}</td>'
                for kind, value in zip(kinds, row, strict=True))
        for row in rows
    ]
    top = ''.join(f'<th{kind}>{escape(name)}</th>'
                  for kind, name in zip(kinds, head, strict=True))
    if any(head):
        cells.insert(0, top)
    return ('<table>' + ''.join(f'<tr>{row}</tr>' for row in cells)
            + '</table>')


def _said(value: object) -> str:
    """A value as the page writes it."""
    if value is None:
        return ''
    if isinstance(value, float):
        return f'{value:.4g}'
    return str(value)


def plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace('$', r'\$')


def picture(what: str, kind: str, content: bytes) -> str:
    """A picture in the page itself, with a line under it.

    Args:
        what (str): The line.
        kind (str): Subtype of the format, such as 'jpeg' or 'svg+xml'.
        content (bytes): The file.
    """
    text = base64.b64encode(content).decode()
    return (f'<figure><img alt="{escape(what)}" '
            f'src="data:image/{kind};base64,{text}"><div>{escape(what)}'
            '</div></figure>')
