"""How far two sets of features are apart, and where."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """The difference of two arrays of tokens [tokens, embed_dim].

    `max_abs` is also the smallest tolerance that would have passed. `cosine` is that of the worst token. `token` and
    `channel` say where the largest difference is. A value that is not finite makes every figure NaN.
    """

    max_abs: float
    p99_abs: float
    mean_abs: float
    cosine: float
    token: int
    channel: int


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two arrays [tokens, embed_dim], computing in float64.

    Raises `ValueError` if their shapes differ or there is nothing to compare.
    """
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"cannot compare arrays of shapes {a.shape} and {b.shape}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    delta = np.abs(a - b)
    token, channel = np.unravel_index(np.argmax(np.where(np.isnan(delta), np.inf, delta)), delta.shape)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two equal vectors of zeros point the same way; one against another vector does not.
    cosines = np.where(norms == 0, (delta.max(axis=1) == 0).astype(float), (a * b).sum(axis=1) / np.where(norms == 0, 1, norms))
    finite = bool(np.isfinite(delta).all())
    figures = [delta.max(), np.quantile(delta, 0.99), delta.mean(), cosines.min()]
    return Difference(*(float(x) if finite else float("nan") for x in figures), int(token), int(channel))


def token_groups(features: np.ndarray, num_prefix: int) -> dict[str, np.ndarray]:
    """The tokens [tokens, embed_dim] by what users take from them, each as [n, embed_dim]."""
    patches = features[num_prefix:]
    groups = {
        "cls": features[:1],
        "registers": features[1:num_prefix],
        "patches": patches,
        "patches_mean": patches.mean(axis=0, keepdims=True, dtype=np.float64),
    }
    return {name: tokens for name, tokens in groups.items() if tokens.size}
