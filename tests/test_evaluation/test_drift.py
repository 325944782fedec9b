"""Drift: laws that each of its measures obeys."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyborgs_plugin.evaluation.drift import (
    effective_rank,
    linear_cka,
    mean_cosine,
    measure_drift,
    recovered_variance,
)


def features(seed, places=200, channels=12):
    return np.random.default_rng(seed).normal(size=(places, channels))


def rotation(seed, channels=12):
    return np.linalg.qr(features(seed, channels, channels))[0]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 10))
def test_nothing_moved(seed, scale):
    start = features(seed)
    now = scale * start
    assert mean_cosine(start, now) == pytest.approx(1)
    assert linear_cka(start, now @ rotation(seed)) == pytest.approx(1)
    assert recovered_variance(start, now @ rotation(seed)) > 0.99


def test_cka_is_the_ratio_of_hsics():
    """By the definition: traces of centred Gram matrices."""
    first, second = features(0), features(0) + features(1, channels=12)
    centre = np.eye(200) - 1 / 200

    def hsic(x, y):
        return np.trace(x @ x.T @ centre @ y @ y.T @ centre)

    expected = hsic(first, second) / np.sqrt(
        hsic(first, first) * hsic(second, second))
    assert linear_cka(first, second) == pytest.approx(expected)


def test_effective_rank_of_known_spectra():
    basis = np.linalg.qr(features(0) - features(0).mean(0))[0]
    assert effective_rank(basis) == pytest.approx(12)
    assert effective_rank(basis[:, :3] @ features(1, 3, 9)) < 3
    collapsed = np.outer(features(2, channels=1)[:, 0], np.ones(12))
    assert effective_rank(collapsed) == pytest.approx(1)


def test_effective_rank_by_the_covariance():
    """Its eigenvalues are the squares of singular values, up to a factor."""
    points = features(6) * np.arange(1, 13)
    roots = np.sqrt(np.linalg.eigvalsh(np.cov(points.T)))
    shares = roots / roots.sum()
    entropy = sum(-share * np.log(share) for share in shares)
    assert effective_rank(points) == pytest.approx(np.exp(entropy))


@pytest.mark.parametrize('alpha', [1., 30.])
def test_recovery_by_the_normal_equations(alpha):
    start, now = features(7), features(7)[:, :8] + features(8, channels=8)
    now = now * 5 + 3

    def scaled(rows, like):
        return (rows - like.mean(0)) / like.std(0)

    x, y = (scaled(rows, rows[:100]) for rows in (now, start))
    weights = np.linalg.solve(x[:100].T @ x[:100] + alpha * np.eye(8),
                              x[:100].T @ y[:100])
    error = ((x[100:] @ weights - y[100:])**2).sum()
    expected = 1 - error / ((y[100:] - y[100:].mean(0))**2).sum()
    assert recovered_variance(start, now, alpha) == pytest.approx(expected)


def test_lost_directions_are_not_recovered():
    start = features(3)
    now = start.copy()
    now[:, 6:] = features(4)[:, 6:]  # half of what was known is gone
    assert recovered_variance(start, now) == pytest.approx(0.5, abs=0.1)
    assert recovered_variance(start, features(5)) < 0.1


def test_scores_of_stages():
    start = [features(0).astype(np.float16), features(1, channels=5)]
    scores = measure_drift(start, [start[0], -start[1]])
    assert scores['cosine_0'] == pytest.approx(1, abs=1e-3)
    assert scores['cosine_1'] == pytest.approx(-1)
    assert scores['drift'] == pytest.approx(2)
    assert scores['cka'] == pytest.approx(1)
    assert scores['rank'] == pytest.approx(scores['start_rank'])
    with pytest.raises(ValueError):
        measure_drift(start, start[:1])
