"""Verdicts on differences, against scipy's tests and a simulation."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cyborgs_plugin.evaluation.verdict import (
    NOT_SHOWN,
    difference,
    seeds_needed,
    summarise,
)

numbers = st.floats(0, 1).map(lambda value: round(value, 3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8)


@settings(deadline=None)
@given(pairs)
def test_interval_and_verdict_are_those_of_scipy_s_paired_test(values):
    start, end = np.array(values).T
    found = difference(start, end)
    steps = end - start
    assert found.mean == pytest.approx(steps.mean())
    if np.ptp(steps) < 1e-9:
        assert found.verdict == NOT_SHOWN and math.isnan(found.low)
        assert found.needed is None
        return
    assert found.error == pytest.approx(stats.sem(steps))
    oracle = stats.ttest_rel(end, start)
    interval = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    if abs(oracle.pvalue - 0.05) > 1e-9:
        shown = oracle.pvalue < 0.05
        expected = 'better' if steps.mean() > 0 else 'worse'
        assert found.verdict == (expected if shown else NOT_SHOWN)


def test_one_seed_shows_nothing():
    found = difference([0.1], [0.9])
    assert found.verdict == NOT_SHOWN and found.mean == pytest.approx(0.8)
    assert math.isnan(found.low) and found.needed is None


def test_means():
    found = summarise([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3) and found.seeds == 3
    assert found.error == pytest.approx(stats.sem([0.1, 0.2, 0.6]))


@pytest.mark.parametrize('effect, expected', [
    # of a paired t-test, two-sided, 0.05, power 0.8, as G*Power tables them
    (0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_of_known_effects(effect, expected):
    assert seeds_needed(0.01 / effect, 0.01) == expected


def test_so_many_seeds_do_find_the_difference():
    random = np.random.default_rng(0)
    spread = 0.008
    count = seeds_needed(spread, 0.01)
    for seeds, enough in ((count, True), (count - 2, False)):
        draws = random.normal(0.01, spread, (20000, seeds))
        power = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
        assert (power > 0.79) == enough, power


@settings(deadline=None, max_examples=30)
@given(st.floats(1e-5, 1))
def test_a_larger_spread_needs_no_fewer_seeds(spread):
    few, many = (seeds_needed(each, 0.01) for each in (spread, 1.5 * spread))
    assert few is None and many is None or few >= 2
    assert many is None or few <= many


def test_without_spread_or_with_far_too_much():
    assert seeds_needed(0., 0.01) is None
    assert seeds_needed(float('nan'), 0.01) is None
    assert seeds_needed(5., 0.01) is None
    assert seeds_needed(1e-6, 0.01) == 2
