"""How far a network's features have moved from those of its start.

No labels are needed: the same pictures go through both networks, and features
at the same locations are compared.
"""
from collections.abc import Sequence

import numpy as np


def measure_drift(start: Sequence[np.ndarray],
                  now: Sequence[np.ndarray]) -> dict[str, float]:
    """Compare features at the same locations before and after training.

    Args:
        start (Sequence[np.ndarray]): Features of each stage, (M, C_i), float.
            Locations of one picture are contiguous.
        now (Sequence[np.ndarray]): The same from the trained network.

    Returns:
        dict[str, float]: ``cosine_<i>``, mean cosine of the features of stage
        i; ``drift``, 1 less the lowest of them; ``cka``, linear CKA of all
        stages together (1: equal up to a rotation and a scale); ``rank`` and
        ``start_rank``, effective ranks; ``recovered``, the share of the
        start's variance that a ridge regression recovers from the new
        features, at locations that it was not fitted on (1: nothing was lost).
    """
    scores = {
        f'cosine_{number}': mean_cosine(old, new)
        for number, (old, new) in enumerate(zip(start, now, strict=True))
    }
    before, after = (_joined(stages) for stages in (start, now))
    return dict(
        scores,
        drift=1 - min(scores.values()),
        cka=linear_cka(before, after),
        start_rank=effective_rank(before),
        rank=effective_rank(after),
        recovered=recovered_variance(before, after))


def mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Mean cosine of the rows of two (M, C) arrays."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.mean((first * second).sum(1) / np.maximum(norms, 1e-12)))


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centred kernel alignment (Kornblith et al., 2019, Eq. 2).

    Args:
        first (np.ndarray): (M, C), float.
        second (np.ndarray): (M, D), float.

    Returns:
        float: From 0 to 1; the same for any rotation or scale of either.
    """
    grams = []
    for features in (first, second):
        centred = (features - features.mean(0)).astype(np.float64)
        grams.append(centred @ centred.T)
    norms = [np.linalg.norm(gram) for gram in grams]
    return float((grams[0] * grams[1]).sum() / max(norms[0] * norms[1], 1e-12))


def effective_rank(features: np.ndarray) -> float:
    """Exponential of the entropy of singular values (Roy, Vetterli, 2007).

    Args:
        features (np.ndarray): (M, C), float; they are centred first.
    """
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def recovered_variance(start: np.ndarray, now: np.ndarray,
                       alpha: float = 1.) -> float:
    """Share of the start's variance that is recoverable from new features.

    A ridge regression is fitted on the first half of the locations and scored
    on the second, so that no picture is on both sides.

    Args:
        start (np.ndarray): (M, C), float.
        now (np.ndarray): (M, D), float.
        alpha (float): Strength of the ridge, for standardised features.
            Defaults to 1.

    Returns:
        float: 1 - residual / variance; below 0 if a constant is better.
    """
    # a second of the start of every command, were it at the top
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler
    half = len(start) // 2
    wanted, given = StandardScaler(), StandardScaler()
    train_y = wanted.fit_transform(start[:half])
    train_x = given.fit_transform(now[:half])
    ridge = Ridge(alpha=alpha).fit(train_x, train_y)
    y = wanted.transform(start[half:])
    residual = ((ridge.predict(given.transform(now[half:])) - y)**2).sum()
    return float(1 - residual / ((y - y.mean(0))**2).sum())


def _joined(stages: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenated stages, each with the same share of the variance."""
    parts = []
    for stage in stages:
        stage = stage.astype(np.float32)
        spread = np.sqrt(stage.var(0).sum())
        parts.append(stage / max(spread, 1e-12))
    return np.concatenate(parts, axis=1)
