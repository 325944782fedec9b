"""One HTML page of a run: what was planned, what came of it, what is next."""
import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from .html import Html, fill, write_page

_POINTS = 400
"""Points of a curve; of more, means of neighbours are drawn."""


@dataclass
class Curve:
    """A number over the steps of a run.

    Attributes:
        name (str): What it is.
        steps (Sequence[float]): Where it was measured.
        values (Sequence[float]): What was found, of the same length.
        unit (str): What the steps count. Defaults to 'iteration'.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    unit: str = 'iteration'


@dataclass
class RunReport:
    """What the page says.

    Attributes:
        title (str): Heading.
        plan (Sequence[tuple[str, str]]): Name and value of each setting.
        verdict (str): In a line, how the run went. Defaults to ''.
        alarms (Sequence[tuple[str, str]]): What was found, and what to do.
            Defaults to ().
        loss (Curve, optional): Defaults to None.
        curves (Sequence[Curve]): Other numbers. Defaults to ().
        rounds (Sequence[dict]): Of each mask round its numbers and texts by
            name, the iteration at which it began as ``iteration``.
            Defaults to ().
        sheet (np.ndarray, optional): Pictures and masks, RGB, (H, W, 3),
            uint8. Defaults to None.
        notes (Sequence[str]): What could not be shown. Defaults to ().
        commands (Sequence[tuple[str, str]]): What each is for, and the
            command. Defaults to ().
    """

    title: str
    plan: Sequence[tuple[str, str]]
    verdict: str = ''
    alarms: Sequence[tuple[str, str]] = ()
    loss: Curve | None = None
    curves: Sequence[Curve] = ()
    rounds: Sequence[dict] = ()
    sheet: np.ndarray | None = None
    notes: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = ()


def write_report(report: RunReport, out_file: str) -> int:
    """Write the page: one file that loads nothing else.

    Args:
        report (RunReport): What it says. All texts are escaped.
        out_file (str): Path of the page.

    Returns:
        int: Size of the page, in bytes.
    """
    marks = [row['iteration'] for row in report.rounds
             if row.get('iteration') is not None]
    parts = [_section('Plan', _table(('', ''), report.plan))]
    if report.verdict or report.alarms:
        parts.append(_section('Health', _paragraph(report.verdict) + ''.join(
            f'<div class="alarm">{_paragraph(found)}{_paragraph(advice)}'
            '</div>' for found, advice in report.alarms)))
    if report.loss is not None:
        parts.append(_section(
            'Loss', '<p class="note">Dashed lines: new masks.</p>'
            f'<div class="plots">{_plot(report.loss, marks)}</div>'))
    if report.curves:
        parts.append(_section('Over time', '<div class="plots">' + ''.join(
            _plot(curve, marks if curve.unit == 'iteration' else ())
            for curve in report.curves) + '</div>'))
    if report.rounds:
        parts.append(_section('Mask rounds', _rounds(report.rounds)))
    if report.sheet is not None:
        jpeg = cv2.imencode('.jpg', report.sheet[..., ::-1],
                            [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        parts.append(_section('Masks', _image(
            'Photographs and their masks', 'jpeg', jpeg)))
    if report.notes:
        parts.append(_section('Not shown', ''.join(
            map(_paragraph, report.notes))))
    parts.append(_section('What next', ''.join(
        f'{_paragraph(why)}<pre>{escape(command)}</pre>'
        for why, command in report.commands)))
    return write_page(
        fill('run_report', title=report.title, body=Html(''.join(parts))),
        out_file)


def _section(name: str, body: str) -> str:
    return f'<section><h2>{escape(name)}</h2>{body}</section>\n'


def _paragraph(text: str) -> str:
    return f'<p>{escape(text)}</p>' if text else ''


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
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


def _rounds(rounds: Sequence[dict]) -> str:
    names = list(dict.fromkeys(name for row in rounds for name in row))
    return _table(names, [[row.get(name, '') for name in names]
                          for row in rounds])


def _said(value: object) -> str:
    """A value as the page writes it."""
    if value is None:
        return ''
    if isinstance(value, float):
        return f'{value:.4g}'
    return str(value)


def _plot(curve: Curve, marks: Sequence[float]) -> str:
    """A curve as a picture that any size suits."""
    steps, values = _thinned(curve)
    with rc_context({'svg.hashsalt': curve.name}):
        figure = Figure(figsize=(5, 2.8))
        canvas = FigureCanvasSVG(figure)
        axis = figure.subplots()
        axis.plot(steps, values, linewidth=1.5,
                  marker='o' if len(steps) < 30 else '', markersize=3)
        for mark in marks:
            axis.axvline(mark, linestyle='--', linewidth=0.8, color='0.6')
        axis.set_title(_plain(curve.name), fontsize=10)
        axis.set_xlabel(curve.unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        figure.tight_layout(pad=0.5)
        file = BytesIO()
        canvas.print_svg(file, metadata=dict(Date=None))
    ends = [value for value in curve.values if math.isfinite(value)]
    said = (f': from {ends[0]:.4g} to {ends[-1]:.4g}' if ends else
            ': no finite value')
    return _image(curve.name + said, 'svg+xml', file.getvalue())


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace('$', r'\$')


def _thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """No more points than can be seen."""
    steps = np.asarray(curve.steps, float)
    values = np.asarray(curve.values, float)
    parts = min(len(steps), _POINTS)
    if parts == len(steps):
        return steps, values

    def means(numbers: np.ndarray) -> np.ndarray:
        return np.array(
            [part.mean() for part in np.array_split(numbers, parts)])

    return means(steps), means(values)


def _image(what: str, kind: str, content: bytes) -> str:
    text = base64.b64encode(content).decode()
    return (f'<figure><img alt="{escape(what)}" '
            f'src="data:image/{kind};base64,{text}"><div>{escape(what)}'
            '</div></figure>')
