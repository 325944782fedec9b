"""One HTML page of a run: what was planned, what came of it, what is next."""
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

from .html import (
    Html,
    fill,
    paragraph,
    picture,
    plain,
    section,
    table,
    write_page,
)

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
    parts = [section('Plan', table(('', ''), report.plan))]
    if report.verdict or report.alarms:
        parts.append(section('Health', paragraph(report.verdict) + ''.join(
            f'<div class="alarm">{paragraph(found)}{paragraph(advice)}'
            '</div>' for found, advice in report.alarms)))
    if report.loss is not None:
        parts.append(section(
            'Loss', '<p class="note">Dashed lines: new masks.</p>'
            f'<div class="plots">{_plot(report.loss, marks)}</div>'))
    if report.curves:
        parts.append(section('Over time', '<div class="plots">' + ''.join(
            _plot(curve, marks if curve.unit == 'iteration' else ())
            for curve in report.curves) + '</div>'))
    if report.rounds:
        parts.append(section('Mask rounds', _rounds(report.rounds)))
    if report.sheet is not None:
        jpeg = cv2.imencode('.jpg', report.sheet[..., ::-1],
                            [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        parts.append(section('Masks', picture(
            'Photographs and their masks', 'jpeg', jpeg)))
    if report.notes:
        parts.append(section('Not shown', ''.join(
            map(paragraph, report.notes))))
    parts.append(section('What next', ''.join(
        f'{paragraph(why)}<pre>{escape(command)}</pre>'
        for why, command in report.commands)))
    return write_page(
        fill('run_report', title=report.title, body=Html(''.join(parts))),
        out_file)


def _rounds(rounds: Sequence[dict]) -> str:
    names = list(dict.fromkeys(name for row in rounds for name in row))
    return table(names, [[row.get(name, '') for name in names]
                          for row in rounds])


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
        axis.set_title(plain(curve.name), fontsize=10)
        axis.set_xlabel(curve.unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        figure.tight_layout(pad=0.5)
        file = BytesIO()
        canvas.print_svg(file, metadata=dict(Date=None))
    ends = [value for value in curve.values if math.isfinite(value)]
    said = (f': from {ends[0]:.4g} to {ends[-1]:.4g}' if ends else
            ': no finite value')
    return picture(curve.name + said, 'svg+xml', file.getvalue())


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
