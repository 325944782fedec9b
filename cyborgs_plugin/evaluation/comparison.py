"""What a comparison of starts says: means, differences, verdicts."""
from collections.abc import Sequence
from typing import Any, NamedTuple

from .label_splits import WHOLE
from .verdict import NOT_SHOWN, difference, summarise


class Cell(NamedTuple):
    """One training or probe."""

    start: str
    labels: float
    """Share of the labels, in per cent."""
    seed: int
    scores: dict[str, float]
    """By their names; those that were not possible are left out."""
    seconds: float


def rows_of(cells: Sequence[Cell], against: str,
            trained: bool) -> list[dict[str, Any]]:
    """Summarise the seeds, score by score.

    Args:
        cells (Sequence[Cell]): What was measured.
        against (str): The start that the others are compared with.
        trained (bool): Whether seeds change more than the labels. If not, all
            labels together give no interval.

    Returns:
        list[dict]: For each score, share of the labels and start the ``mean``,
        its ``error``, the number of ``seeds`` and, but for ``against``, the
        ``difference`` with its ``verdict``; a NaN is None. Only seeds that
        both have are compared.
    """
    found: dict[tuple[str, float, str], dict[int, float]] = {}
    for cell in cells:
        for name, value in cell.scores.items():
            found.setdefault((name, cell.labels, cell.start),
                             {})[cell.seed] = value
    rows = []
    for (name, labels, start), values in found.items():
        row: dict[str, Any] = dict(
            score=name, labels=labels, start=start, difference=None,
            **summarise([*values.values()])._asdict())
        others = found.get((name, labels, against), {})
        both = sorted(values.keys() & others.keys())
        if start != against and both:
            step = difference([others[seed] for seed in both],
                              [values[seed] for seed in both])
            if labels == WHOLE and not trained:
                nothing = float('nan')
                step = step._replace(
                    error=nothing, low=nothing, high=nothing, needed=None,
                    verdict=NOT_SHOWN)
            row['difference'] = _plain(step._asdict())
        rows.append(_plain(row))
    order = {name: place for place, name in enumerate(
        dict.fromkeys(cell.start for cell in cells))}
    names = [*dict.fromkeys(row['score'] for row in rows)]
    return sorted(rows, key=lambda row: (
        names.index(row['score']), row['labels'], order[row['start']]))


def sentences(rows: Sequence[dict[str, Any]], against: str) -> list[str]:
    """Say in words what was found, one sentence for each score and start.

    Args:
        rows (Sequence[dict]): Those of :func:`rows_of`.
        against (str): The start that the others are compared with.

    Returns:
        list[str]: Such as 'cyborgs against imagenet, box AP: better with 1 %
        of the labels (+0.020, 95 % interval +0.005 to +0.035); not shown with
        10 % (+0.002; some 9 seeds would tell 0.01).'
    """
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        step = row['difference']
        if step is None:
            continue
        where = f'with {row["labels"]:g} %'
        text = f'{step["verdict"]} {where} ({step["mean"]:+.3f}'
        if step['low'] is None:
            text += '; no interval without a spread of seeds'
        else:
            text += (f', 95 % interval {step["low"]:+.3f} to '
                     f'{step["high"]:+.3f}')
        if step['verdict'] == NOT_SHOWN and step['needed']:
            text += f'; about {step["needed"]} seeds would tell 0.01'
        said.setdefault((row['start'], row['score']), []).append(f'{text})')
    return [
        f'{start} against {against}, {score}: {"; ".join(parts)}.'
        for (start, score), parts in said.items()
    ]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """With None for NaN, which JSON does not know."""
    return {
        key: None if isinstance(value, float) and value != value else value
        for key, value in row.items()
    }
