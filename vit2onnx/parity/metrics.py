"""How far two sets of features are apart, and where."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vit2onnx.spec.interface import Port

# What is judged of tokens, in words.
TOKEN_ERROR = "error of a token (root mean square) in noise floors"


@dataclass(frozen=True)
class Difference:
    """The difference of two arrays of tokens [tokens, embed_dim].

    `max_abs` is also the smallest tolerance that would have passed. `rms` is the root of the mean square over `count`
    elements. `cosine` is that of the worst token. `token` and `channel` say where the largest difference is. A value
    that is not finite makes every figure `None`, because JSON has no NaN.
    """

    count: int
    max_abs: float | None
    rms: float | None
    p99_abs: float | None
    mean_abs: float | None
    cosine: float | None
    token: int
    channel: int


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two arrays [tokens, embed_dim], computing in float64.

    Raises `ValueError` if their shapes differ or there is nothing to compare.
    """
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"cannot compare arrays of shapes {a.shape} and {b.shape}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        delta = np.abs(a - b)
    where = np.unravel_index(np.argmax(np.where(np.isnan(delta), np.inf, delta)), delta.shape)
    token, channel = map(int, where)
    if not np.isfinite(delta).all():
        return Difference(delta.size, None, None, None, None, None, token, channel)
    return Difference(
        count=delta.size,
        max_abs=float(delta.max()),
        rms=float(np.sqrt(np.mean(delta * delta))),
        p99_abs=float(np.quantile(delta, 0.99)),
        mean_abs=float(delta.mean()),
        cosine=float(token_cosines(a, b).min()),
        token=token,
        channel=channel,
    )


def token_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each token of two arrays [..., embed_dim], computed in float64."""
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    # Two equal vectors of zeros point the same way; one against another vector does not.
    equal = (a == b).all(axis=-1).astype(float)
    cosines: np.ndarray = np.where(norms == 0, equal, (a * b).sum(axis=-1) / np.where(norms == 0, 1, norms))
    return cosines


def token_groups(features: np.ndarray, port: Port) -> dict[str, np.ndarray]:
    """The groups of rows of an output [rows, ...], each as [n, ...], and the mean of the patches."""
    groups = {group.name: features[group.start : group.stop] for group in port.groups}
    for group in port.groups:
        if group.grid:
            with np.errstate(invalid="ignore"):
                groups[f"{group.name}_mean"] = groups[group.name].mean(axis=0, keepdims=True, dtype=np.float64)
    return {name: rows for name, rows in groups.items() if rows.size}


def finite(value: float | np.floating) -> float | None:
    """A figure for JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


def worst(values: Iterable[float | None]) -> float:
    """The largest figure; NaN if there is none, or one is `None` or no finite number, which `max` would pass over."""
    found = [math.nan if value is None else float(value) for value in values]
    return max(found) if found and all(map(math.isfinite, found)) else math.nan


def severity(value: float | None) -> float:
    """The key to order figures by: one that is not finite is the worst."""
    return value if value is not None and math.isfinite(value) else math.inf


def standard_deviation(features: np.ndarray) -> float | None:
    """The standard deviation of all features; `None` if one of them is not finite."""
    with np.errstate(invalid="ignore"):
        return finite(features.std(dtype=np.float64))
