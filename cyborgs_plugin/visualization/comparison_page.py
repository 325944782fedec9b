"""The pages of a comparison: one in HTML, one in Markdown, and its plots."""
import os.path as osp
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..files import written_aside
from .html import Html, fill, paragraph, picture, plain, section, table
from .html import write_page as write_html


@dataclass
class ComparisonPage:
    """What the pages say.

    Attributes:
        title (str): Heading.
        verdicts (Sequence[str]): A sentence for each score and start.
        rows (Sequence[dict]): Of each score, share of the labels and start:
            ``score``, ``labels``, ``start``, ``mean``, ``error``, ``seeds``
            and ``difference``, as ``evaluation.comparison.rows_of`` gives
            them.
        against (str): The start that the others are compared with.
        times (Sequence[tuple[str, float]]): Seconds by start.
        settings (Sequence[tuple[str, str]]): Name and value.
        notes (Sequence[str]): What to know before believing it.
    """

    title: str
    verdicts: Sequence[str]
    rows: Sequence[dict[str, Any]]
    against: str
    times: Sequence[tuple[str, float]]
    settings: Sequence[tuple[str, str]]
    notes: Sequence[str]


def write_comparison(page: ComparisonPage, folder: str) -> list[str]:
    """Write ``compare.html``, ``compare.md`` and a plot for each score.

    Args:
        page (ComparisonPage): What they say. All texts are escaped.
        folder (str): An existing folder.

    Returns:
        list[str]: Paths of the two pages.
    """
    scores = [*dict.fromkeys(row['score'] for row in page.rows)]
    plots = {}
    for score in scores:
        name = f'{re.sub("[^a-z0-9]+", "_", score.lower())}.svg'
        plots[score] = name
        with written_aside(osp.join(folder, name)) as aside:
            _plot(page.rows, score, aside)
    paths = [osp.join(folder, f'compare.{kind}') for kind in ('html', 'md')]
    write_html(_html(page, scores, plots, folder), paths[0])
    with written_aside(paths[1]) as aside, open(
            aside, 'w', encoding='utf-8') as file:
        file.write(_markdown(page, scores, plots))
    return paths


def _html(page: ComparisonPage, scores: Sequence[str], plots: dict[str, str],
          folder: str) -> str:
    parts = [section('Verdict', ''.join(map(paragraph, page.verdicts)))]
    for score in scores:
        with open(osp.join(folder, plots[score]), 'rb') as file:
            drawn = picture(f'{score} by the share of the labels', 'svg+xml',
                            file.read())
        parts.append(section(score, f'<div class="plots">{drawn}</div>'
                             + table(*_table(page, score))))
    parts += [
        section('Time', table(('start', 'minutes'), _minutes(page))),
        section('Settings', table(('', ''), page.settings)),
        section('Before you believe it', ''.join(map(paragraph, page.notes)))
    ]
    return fill('run_report', title=page.title, body=Html(''.join(parts)))


def _markdown(page: ComparisonPage, scores: Sequence[str],
              plots: dict[str, str]) -> str:
    parts = [f'# {_escaped(page.title)}', '## Verdict',
             *map(_escaped, page.verdicts)]
    for score in scores:
        parts += [f'## {score}',
                  f'![{score} by the share of the labels]({plots[score]})',
                  _rows(*_table(page, score))]
    parts += ['## Time', _rows(('start', 'minutes'), _minutes(page)),
              '## Settings', _rows(('', ''), page.settings),
              '## Before you believe it', *map(_escaped, page.notes)]
    return '\n\n'.join(parts) + '\n'


def _table(page: ComparisonPage, score: str
           ) -> tuple[Sequence[str], list[list[str]]]:
    head = ('labels', 'start', 'mean', 'standard error', 'seeds',
            f'difference from {page.against}', '95 % interval', 'verdict',
            'seeds to tell 0.01')
    found = []
    for row in page.rows:
        if row['score'] != score:
            continue
        step = row['difference'] or {}
        found.append([
            f'{row["labels"]:g} %', row['start'], _said(row['mean']),
            _said(row['error']), str(row['seeds']),
            _said(step.get('mean'), '+'),
            '' if step.get('low') is None else
            f'{step["low"]:+.3f} to {step["high"]:+.3f}',
            step.get('verdict', ''), str(step.get('needed') or '')
        ])
    return head, found


def _minutes(page: ComparisonPage) -> list[tuple[str, str]]:
    return [(name, f'{seconds / 60:.1f}') for name, seconds in page.times]


def _said(value: float | None, sign: str = '') -> str:
    return '' if value is None else f'{value:{sign}.3f}'


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(
        f'| {" | ".join(_escaped(str(cell)) for cell in line)} |'
        for line in lines)


def _escaped(text: str) -> str:
    """Text in which Markdown sees no table, HTML or link."""
    return re.sub(r'([|<>\[\]*_`\\])', r'\\\1', text.replace('\n', ' '))


def _plot(rows: Sequence[dict[str, Any]], score: str, path: str) -> None:
    """Means with their standard errors, over the share of the labels."""
    with rc_context({'svg.hashsalt': score}):
        figure = Figure(figsize=(5, 3.2))
        canvas = FigureCanvasSVG(figure)
        axis = figure.subplots()
        shares = sorted({row['labels'] for row in rows})
        for start in dict.fromkeys(row['start'] for row in rows):
            own = [row for row in rows
                   if row['start'] == start and row['score'] == score]
            axis.errorbar([row['labels'] for row in own],
                          [row['mean'] for row in own],
                          [row['error'] or 0. for row in own],
                          label=plain(start), marker='o', markersize=3,
                          linewidth=1.5, capsize=3)
        axis.set_xscale('log')
        axis.set_xticks(shares, [f'{share:g}' for share in shares])
        axis.minorticks_off()
        axis.set_xlabel('labels, %', fontsize=8)
        axis.set_ylabel(score, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        figure.tight_layout(pad=0.5)
        with open(path, 'wb') as file:
            canvas.print_svg(file, metadata=dict(Date=None))
