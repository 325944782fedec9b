"""How much of their space vectors use."""
import torch
from torch import Tensor


def describe_vectors(vectors: Tensor) -> dict[str, float]:
    """Say whether vectors differ, and in how many directions.

    Args:
        vectors (Tensor): M >= 2 of them, (M, C), floating point.

    Returns:
        dict[str, float]: ``rank``, see :func:`rankme`; ``spread``, the mean
        over the channels of the standard deviation of the unit vectors, times
        the square root of C (1 where they point everywhere alike, 0 where
        they are all the same); ``cosine``, the mean over all pairs of
        different vectors. NaN if a vector has NaN or infinite values.
    """
    if not torch.isfinite(vectors).all():
        return dict.fromkeys(('rank', 'spread', 'cosine'), float('nan'))
    vectors = vectors.double()
    unit = torch.nn.functional.normalize(vectors, dim=1)
    number, channels = vectors.shape
    # All products of two, less those of a vector with itself.
    together = unit.sum(0).square().sum() - unit.square().sum()
    return dict(
        rank=rankme(vectors),
        spread=float(unit.std(0, correction=0).mean() * channels**0.5),
        cosine=float(together / (number * (number - 1))))


def rankme(vectors: Tensor, eps: float = 1e-7) -> float:
    """Exponential of the entropy of the singular values.

    RankMe: `Assessing the Downstream Performance of Pretrained
    Self-Supervised Representations by Their Rank
    <https://arxiv.org/abs/2210.02885>`_, Eq. 1. The vectors are not centred.

    Args:
        vectors (Tensor): Shape (M, C), finite.
        eps (float): Added to each share. Defaults to 1e-7.

    Returns:
        float: From 1 to the smaller of M and C.
    """
    vectors = vectors.double()
    if len(vectors) < vectors.shape[1]:
        vectors = vectors.T
    # Of the smaller Gram matrix, which is many times as fast as an SVD.
    values = torch.linalg.eigvalsh(vectors.T @ vectors).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=1e-300) + eps
    return float(torch.exp(-(shares * shares.log()).sum()))
