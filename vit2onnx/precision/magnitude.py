"""How large a value can be, whatever the input is: what an abstract interpretation of a graph carries along.

All numbers are upper bounds in double precision. Each operation enlarges them by `ROUNDING`, so that they hold for
graphs that compute in half precision with sums in single precision.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

# More than a relative rounding of both operands and of the result to half precision.
ROUNDING = 2.0**-9
# From this size on, the norm of a matrix is bounded by a power of its Gram matrix, because eigenvalues take minutes.
LARGE = 1536
# From channels to groups of so many parts: an array like the bounds whose last axis is the groups.
Lengths = Callable[[int], np.ndarray | None]
Read = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Affine:
    """A value that is `(gain * z) @ weight * scale + shift`, where z is centred and of length √size at most.

    This is a norm's output, and what a linear layer makes of it. Without a `weight`, that is one. `radii` bound each
    channel without its shift. The weight is read when it is needed, so that none is held.
    """

    gain: np.ndarray
    weight: Read | None
    scale: np.ndarray
    shift: np.ndarray
    radii: np.ndarray

    @classmethod
    def of_norm(cls, gain: np.ndarray, shift: np.ndarray) -> "Affine":
        """The output of a LayerNormalization with these weights."""
        # A centred vector of length √n has no entry beyond √(n - 1).
        radii = np.abs(gain) * np.sqrt(max(gain.size - 1, 0)) * (1 + ROUNDING)
        return cls(gain, None, np.ones_like(gain), shift, radii)

    def times_matrix(self, weight: Read) -> "Affine":
        """What a matrix product makes of a norm's output."""
        held = weight()
        matrix = self.gain[:, None] * held
        radii = np.sqrt(self.gain.size) * (np.linalg.norm(matrix - matrix.mean(axis=0), axis=0))
        # Rounding moves z, so that it is no longer centred, and the shift.
        unsteady = np.linalg.norm(matrix, axis=0) * np.sqrt(self.gain.size) + np.abs(self.shift) @ np.abs(held)
        ones = np.ones(matrix.shape[1])
        return Affine(self.gain, weight, ones, self.shift @ held, radii + ROUNDING * unsteady)

    def times(self, factors: np.ndarray) -> "Affine":
        """Multiplied by a factor per channel, or by one."""
        return replace(self, scale=self.scale * factors, shift=self.shift * factors, radii=self.radii * np.abs(factors))

    def plus(self, bias: np.ndarray) -> "Affine":
        """With a bias per channel added."""
        return replace(self, shift=self.shift + bias)

    @property
    def largest(self) -> np.ndarray:
        return (self.radii + np.abs(self.shift)) * (1 + ROUNDING)

    def lengths(self, groups: int) -> np.ndarray | None:
        """The length of each of so many equal groups of channels."""
        if self.shift.size % groups:
            return None
        shifts = np.linalg.norm(self.shift.reshape(groups, -1), axis=1)
        if self.weight is None:
            most = np.abs(self.gain * self.scale).reshape(groups, -1).max(axis=1)
            return (np.sqrt(self.gain.size) * most + shifts) * (1 + ROUNDING)
        matrix = self.gain[:, None] * self.weight() * self.scale
        means = matrix.mean(axis=0)
        parts = (matrix - means).reshape(len(matrix), groups, -1).swapaxes(0, 1)
        # Rounding moves z, so that it is no longer centred.
        unsteady = np.sqrt(
            np.square(parts).sum(axis=(1, 2)) + len(matrix) * np.square(means).reshape(groups, -1).sum(1)
        )
        most = spectral_norms(parts) + ROUNDING * unsteady
        return (np.sqrt(self.gain.size) * most + shifts) * (1 + ROUNDING)


@dataclass(frozen=True)
class Magnitude:
    """What is known of a value.

    `largest` bounds its elements. Its axes are the value's last, each of full size or 1. `lengths` bounds the Euclidean
    lengths along `axis`, which counts from the end, of so many groups of channels; `groups` is the number that fits
    best. `total` bounds the sum of absolute values along the last axis. A constant has a `value`. What is made of a
    position table, by matrices that resize it, is a `table`.
    """

    largest: np.ndarray
    lengths: Lengths | None = None
    groups: int = 1
    axis: int = -1
    affine: Affine | None = None
    total: float = np.inf
    value: Read | None = None
    table: bool = False

    @property
    def most(self) -> float:
        """The bound of all elements."""
        return float(self.largest.max(initial=0.0))

    def length(self, groups: int = 1, size: int | None = None) -> np.ndarray | None:
        """The least that is known of lengths along `axis`, of `size`; nothing if nothing is."""
        found = []
        if self.affine is not None:
            found.append(self.affine.lengths(groups))
        if self.lengths is not None:
            found.append(self.lengths(groups))
        found.append(self._of_box(groups, size))
        known = [one for one in found if one is not None]
        return None if not known else np.minimum.reduce(np.broadcast_arrays(*known))

    def _of_box(self, groups: int, size: int | None) -> np.ndarray | None:
        if self.largest.ndim < -self.axis:
            return None if size is None else np.asarray(self.most * np.sqrt(size / groups))
        wide = np.moveaxis(self.largest, self.axis, -1)
        if wide.shape[-1] == 1 and size is not None:
            wide = np.broadcast_to(wide, (*wide.shape[:-1], size))
        if size not in (None, wide.shape[-1]) or size is None or wide.shape[-1] % groups:
            return None
        parts = wide.reshape(*wide.shape[:-1], groups, -1)
        return np.moveaxis(np.linalg.norm(parts, axis=-1), -1, self.axis)

    def weakened(self, largest: np.ndarray) -> "Magnitude":
        """The same, but for what is known of single elements, and for what an elementwise function destroys."""
        return Magnitude(largest, lengths=self.length_of, groups=self.groups, axis=self.axis)

    def length_of(self, groups: int) -> np.ndarray | None:
        """`length`, if the size of the axis is known by itself."""
        size = self.largest.shape[self.axis] if self.largest.ndim >= -self.axis else 1
        return self.length(groups, size if size > 1 else None)


def unknown() -> Magnitude:
    """Nothing is known of a value."""
    return Magnitude(np.asarray(np.inf))


def spectral_norms(matrices: np.ndarray) -> np.ndarray:
    """Upper bounds of the largest singular value of each matrix [..., rows, columns]."""
    rows, columns = matrices.shape[-2:]
    turned = matrices.swapaxes(-1, -2)
    gram = turned @ matrices if rows >= columns else matrices @ turned
    size = gram.shape[-1]
    scale = np.abs(gram).max(axis=(-1, -2), initial=0.0)
    if not np.isfinite(scale).all():
        return np.full(scale.shape, np.inf)
    gram = gram / np.where(scale > 0, scale, 1)[..., None, None]
    if size < LARGE:
        # Its error is some units of double precision times the norm, and far below `ROUNDING`.
        largest = np.maximum(np.linalg.eigvalsh(gram)[..., -1], 0)
    else:
        # The largest eigenvalue to the power of 16 is at most the trace of that power.
        for _ in range(3):
            gram = gram @ gram
        largest = np.square(gram).sum(axis=(-1, -2)) ** (1 / 16)
    return np.sqrt(scale * largest)
