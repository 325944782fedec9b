"""Whether a difference is shown by a few seeds, and how many would show it."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
"""Of the interval of a difference."""
POWER = 0.8
"""How often the number of seeds of :func:`seeds_needed` is to suffice."""
NOT_SHOWN = 'not shown'
_MOST = 10000
_PLACES = 2000  # of an integral over the spreads
_NOTHING = 1e-12  # a spread that is rounding alone


class Summary(NamedTuple):
    """Scores of several seeds, or their differences."""

    mean: float
    error: float
    """Standard error; NaN for one seed."""
    seeds: int


class Difference(NamedTuple):
    """How one start differs from another, seed by seed."""

    mean: float
    error: float
    """Standard error; NaN for one seed."""
    low: float
    high: float
    """The interval of :data:`LEVEL`, by Student's t; NaN without spread."""
    seeds: int
    verdict: str
    """'better', 'worse', or :data:`NOT_SHOWN`."""
    needed: int | None
    """Seeds that tell a difference of ``least``, by the spread of these;
    None if they have none, or if it takes more than 10000."""


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard error.

    Args:
        values (Sequence[float]): One for each seed.

    Returns:
        Summary: Of the values.
    """
    numbers = np.asarray(values, float)
    error = (numbers.std(ddof=1) / np.sqrt(len(numbers))
             if len(numbers) > 1 else np.nan)
    return Summary(float(numbers.mean()), float(error), len(numbers))


def difference(start: Sequence[float],
               end: Sequence[float],
               least: float = 0.01) -> Difference:
    """Compare two starts on the same seeds.

    A difference is shown if its interval does not hold zero. Equal differences
    of all seeds show nothing: the seeds have changed nothing, so that there is
    no spread to compare with.

    Args:
        start (Sequence[float]): Scores of what is compared with.
        end (Sequence[float]): Scores of the other, on the same seeds.
        least (float): The difference whose seeds are counted. Defaults to
            0.01, one point of AP.

    Returns:
        Difference: Of the second from the first.
    """
    from scipy.stats import t

    steps = np.asarray(end, float) - np.asarray(start, float)
    mean, error, seeds = summarise(steps)
    spread = error * np.sqrt(seeds)
    low = high = np.nan
    verdict = NOT_SHOWN
    if spread > _NOTHING:  # not NaN either
        reach = t.ppf((1 + LEVEL) / 2, seeds - 1) * error
        low, high = mean - reach, mean + reach
        if low > 0 or high < 0:
            verdict = 'better' if low > 0 else 'worse'
    return Difference(mean, error, float(low), float(high), seeds, verdict,
                      seeds_needed(float(spread), least))


def seeds_needed(spread: float, least: float) -> int | None:
    """Number of seeds with which a paired t-test finds a difference.

    It finds it with the probability :data:`POWER` at the level
    :data:`LEVEL`, both sides.

    Args:
        spread (float): Standard deviation of the differences of the seeds.
        least (float): The difference to be found.

    Returns:
        Optional[int]: At least 2; None if there is no spread, or if it takes
        more than 10000.
    """
    if not spread > _NOTHING:  # so is NaN
        return None
    low, high = 2, _MOST
    if _power(high, spread, least) < POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        if _power(middle, spread, least) < POWER:
            low = middle + 1
        else:
            high = middle
    return low


def _power(seeds: int, spread: float, least: float) -> float:
    """How often a paired t-test of so many seeds finds the difference.

    The mean over the spreads that so many seeds may have; scipy's noncentral t
    gives NaN for some large differences.
    """
    from scipy.stats import chi2, norm, t

    shift = least / spread * np.sqrt(seeds)
    places = (np.arange(_PLACES) + 0.5) / _PLACES
    edges = t.ppf((1 + LEVEL) / 2, seeds - 1) * np.sqrt(
        chi2.ppf(places, seeds - 1) / (seeds - 1))
    return float(np.mean(norm.sf(edges - shift) + norm.cdf(-edges - shift)))
