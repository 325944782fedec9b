"""The health of a whole run, in a line."""
import math
from collections.abc import Sequence
from typing import Any

_RANKS = dict(image_rank='images', region_rank='regions')
_DONE = 0.98
"""The part of a gain after which it is over."""
_HARDLY = 0.02
"""A gain that is smaller, as a part of the first value, is none."""


def verdict(epochs: Sequence[dict[str, Any]],
            rounds: Sequence[dict[str, Any]],
            alarms: Sequence[dict[str, Any]]) -> str:
    """Say what improved, until when, and what was wrong.

    Args:
        epochs (Sequence[dict[str, Any]]): As in ``health.json``.
        rounds (Sequence[dict[str, Any]]): Likewise.
        alarms (Sequence[dict[str, Any]]): Likewise.
    """
    if alarms:
        first: dict[str, int] = {}
        for alarm in alarms:
            first.setdefault(alarm['name'], alarm['epoch'])
        parts = ['alarms: ' + ', '.join(
            f'{name} (epoch {epoch})' for name, epoch in first.items())]
    else:
        parts = ['no alarm']
    loss = ('contrast_to_chance' if any(
        'contrast_to_chance' in entry for entry in epochs) else 'loss')
    course = [(entry['epoch'], entry[loss])
              for entry in epochs if math.isfinite(entry.get(loss, math.nan))]
    if len(course) > 1:
        title = 'loss over chance' if loss != 'loss' else 'loss'
        parts.append(f'{title} {_fall(course)}')
    for name, title in _RANKS.items():
        ranks = [entry[name] for entry in epochs if name in entry]
        if len(ranks) > 1:
            parts.append(f'effective rank of {title} {ranks[0]:.3g} -> '
                         f'{ranks[-1]:.3g}')
    agreements = [f'{entry["agreement"]:.2f}' for entry in rounds
                  if 'agreement' in entry]
    if agreements:
        parts.append('agreement of masks from round to round '
                     + ', '.join(agreements))
    last = epochs[-1]['epoch'] if epochs else 0
    return f'after epoch {last}: ' + '; '.join(parts)


def _fall(course: Sequence[tuple[int, float]]) -> str:
    """How far a loss fell, and until when."""
    first, end = course[0][1], course[-1][1]
    gains = [first - value for _, value in course]
    most = max(gains)
    if most <= _HARDLY * abs(first):
        return f'did not improve ({first:.3g}, in the end {end:.3g})'
    epoch, value = next(
        point for point, gain in zip(course, gains) if gain >= _DONE * most)
    said = f'improved from {first:.3g} to {value:.3g} until epoch {epoch}'
    if end - value > _HARDLY * abs(value):
        said += f', then rose to {end:.3g}'
    return said
