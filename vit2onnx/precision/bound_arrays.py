"""Arithmetic on arrays of upper bounds, whose last axis is that of a value's channels, or of groups of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# The largest number of float16.
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
# More than a relative rounding of both operands and of the result to float16.
ROUNDING = 2.0**-9


def finite(array: np.ndarray) -> np.ndarray:
    """With infinity in the place of infinity times zero."""
    return np.where(np.isnan(array), np.inf, array)


def multiplied(x: float, y: float) -> float:
    """A product in which zero times infinity is zero."""
    return 0.0 if not x or not y else x * y


def times(array: np.ndarray | None, factor: float) -> np.ndarray | None:
    """A multiple of lengths, if they are known."""
    return None if array is None else array * factor


def of_channels(array: np.ndarray | None) -> Any:
    """The largest of each channel of the last axis; what is unknown, or one number for all, stays so."""
    return array if array is None or array.ndim == 0 else array.reshape(-1, array.shape[-1]).max(axis=0)


def of_groups(largest: np.ndarray, groups: int) -> np.ndarray:
    """The largest of each group of channels."""
    flat = of_channels(largest)
    return flat.reshape(groups, -1).max(axis=1) if flat.size % groups == 0 and flat.size > 1 else np.asarray(flat.max())


def of_fewer_groups(lengths: np.ndarray | None, groups: int) -> np.ndarray | None:
    """The lengths of fewer groups, of those of more."""
    if lengths is None or lengths.ndim == 0 or lengths.shape[-1] % groups:
        return None
    return np.linalg.norm(lengths.reshape(*lengths.shape[:-1], groups, -1), axis=-1)


def transposed(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """The axes of a value in another order, also those that an array does not have because all is equal along them."""
    return array.reshape((1,) * (len(order) - array.ndim) + array.shape).transpose(order)


def with_last(array: np.ndarray, size: int) -> np.ndarray:
    """With the last axis in its full size."""
    return np.broadcast_to(array, (*array.shape[:-1], size)) if array.ndim else np.full(size, array)


def without(array: np.ndarray, axis: int) -> np.ndarray:
    """The largest along an axis."""
    return array.max(axis=axis, keepdims=True) if array.ndim >= -axis else array


def least(known: Sequence[np.ndarray]) -> np.ndarray:
    """The least of several bounds of the same."""
    found: np.ndarray = np.minimum.reduce(np.broadcast_arrays(*known))
    return found
