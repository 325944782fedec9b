"""The rank and the spread of vectors, against their definitions."""
import math

import numpy as np
import pytest
import torch

from cyborgs_plugin.ops.spread import describe_vectors, rankme


@pytest.mark.parametrize('shape', [(30, 8), (8, 30)])
def test_rank_is_that_of_the_paper(shape):
    vectors = np.random.default_rng(0).normal(2, 1, shape)
    values = np.linalg.svd(vectors, compute_uv=False)
    shares = values / values.sum() + 1e-7
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert rankme(torch.from_numpy(vectors)) == pytest.approx(
        expected, rel=1e-5)
    assert 1 < expected < 8


def test_spread_and_cosine_of_known_vectors():
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 16, generator=random)
    found = describe_vectors(vectors)
    assert found['spread'] == pytest.approx(1, abs=0.02)
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    upper = cosines[~torch.eye(500, dtype=bool)]
    assert found['cosine'] == pytest.approx(upper.mean().item(), abs=1e-5)
    # lengths do not matter
    lengths = torch.arange(1., 501.)[:, None]
    for name in ('spread', 'cosine'):
        assert describe_vectors(vectors * lengths)[name] == pytest.approx(
            found[name], abs=1e-6)


def test_vectors_all_the_same():
    found = describe_vectors(torch.ones(9, 4))
    assert found['rank'] == pytest.approx(1, abs=1e-3)
    assert found['spread'] == pytest.approx(0, abs=1e-7)
    assert found['cosine'] == pytest.approx(1)


def test_not_finite():
    vectors = torch.ones(3, 2)
    vectors[1, 1] = float('inf')
    assert all(map(math.isnan, describe_vectors(vectors).values()))
