"""How many steps minutes allow, and who is ahead: arithmetic of gpu_proof."""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mini_coco_report import PROBES

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation.paired import paired_difference


class RunSpeed(NamedTuple):
    """What a method costs, in seconds."""

    step: float
    image: float
    """Of each image of a mask round."""
    start: float
    """Of a run, beside steps and rounds."""


class Speed(NamedTuple):
    """What was measured."""

    methods: dict[str, RunSpeed]
    batches: int
    """Of an epoch."""
    images: int
    at_once: int
    """Runs that share the device."""
    score: float
    """Seconds that the scores of a run take."""


class Plan(NamedTuple):
    """Equal trainings of all methods."""

    steps: int
    phases: int
    runs: list[tuple[str, int]]
    at_once: int = 1
    seconds: float = 0.
    """0 where it is not known: some of the runs are done."""

    def said(self, batch_size: int) -> str:
        """Say it in a line."""
        return (f'{len(self.runs)} runs of {self.steps} steps, '
                f'{self.steps * batch_size} pictures, {self.phases} mask '
                f'rounds; {self.at_once} at a time'
                + (f', in {self.seconds:.0f} s' if self.seconds else ''))


def make_plan(speed: Speed, methods: Sequence[str], seeds: int,
              seconds: float, phases: int,
              max_epochs: int | None = None) -> Plan:
    """Find the longest equal trainings that fit into the time.

    Args:
        speed (Speed): What was measured.
        methods (Sequence[str]): Which are compared.
        seeds (int): Runs of each.
        seconds (float): That there are.
        phases (int): Parts of a run, of whole epochs; there are fewer where
            a run has fewer epochs.
        max_epochs (int, optional): Of a run. Defaults to None, as many as
            fit.

    Returns:
        Plan: Its runs are in the order of their seeds, so that those that
        are done first compare all methods.

    Raises:
        UserError: If an epoch each takes longer.
    """
    costs = [speed.methods[method] for method in methods]
    epoch = seeds * speed.batches * sum(cost.step for cost in costs)
    start = seeds * sum(cost.start for cost in costs)
    a_round = seeds * speed.images * sum(cost.image for cost in costs)
    whole = seconds * speed.at_once
    for count in range(min(phases, max_epochs or phases), 0, -1):
        per_phase = int((whole - start - count * a_round) / epoch / count)
        if max_epochs:
            per_phase = min(per_phase, max_epochs // count)
        if per_phase >= 1:
            epochs = count * per_phase
            return Plan(
                epochs * speed.batches, count,
                runs_of(methods, seeds), speed.at_once,
                (start + count * a_round + epochs * epoch) / speed.at_once)
    needs = (start + a_round + epoch) / speed.at_once
    raise UserError(
        f'{max(0, seconds):.0f} s are left to train in, but an epoch of '
        f'{seeds * len(methods)} runs takes {needs:.0f} s: give more '
        '--minutes, fewer --methods or --seeds, or --max-images')


def runs_of(methods: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """Name the runs seed by seed, so that the first compare all methods."""
    return [(method, seed) for seed in range(seeds) for method in methods]


class Paired(NamedTuple):
    """CYBORGS against each other method, seed by seed."""

    differences: dict[str, dict[str, tuple[float, float]]]
    text: str


def paired_table(results: dict[str, Any]) -> Paired:
    """Compare CYBORGS with every other method on the seeds of both.

    Args:
        results (dict[str, Any]): What results.json holds.

    Returns:
        Paired: Mean difference and its standard error (NaN for one seed) of
        each score, by method, and a table of them.
    """
    last = {
        (run['method'], run['seed']): _scores(run)
        for run in results['runs'].values()
    }
    methods = list(dict.fromkeys(method for method, _ in last))
    found: dict[str, dict[str, tuple[float, float]]] = {}
    counts = {}
    for other in methods:
        seeds = sorted(seed for method, seed in last
                       if method == other and ('cyborgs', seed) in last)
        if other != 'cyborgs' and seeds:
            counts[other] = len(seeds)
            found[other] = paired_difference(
                [last[other, seed] for seed in seeds],
                [last['cyborgs', seed] for seed in seeds])
    names = list(dict.fromkeys(
        name for scores in last.values() for name in scores))
    lines = ['| CYBORGS less | seeds | ' + ' | '.join(names) + ' |',
             '|---' * (2 + len(names)) + '|']
    for other, differences in found.items():
        cells = [_cell(*differences[name]) if name in differences else ''
                 for name in names]
        lines.append(f'| {other} | {counts[other]} | '
                     + ' | '.join(cells) + ' |')
    return Paired(found, '\n'.join(lines))


def _scores(run: dict[str, Any]) -> dict[str, float]:
    """The scores of a run's last network."""
    point = run['points'][str(run['epochs'][-1])]
    scores = {
        kind: point[kind][name] for kind, name, _ in PROBES if kind in point
    }
    for k, masks in point.get('masks', {}).items():
        scores |= {f'{name}, K={k}': masks[name] for name in ('mBO', 'ARI')}
    return scores


def _cell(mean: float, error: float) -> str:
    return f'{mean:+.3f}' + ('' if np.isnan(error) else f' ± {error:.3f}')
