"""What a norm gives, and what a linear layer makes of it, for all inputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vit2onnx.precision.bound_arrays import ROUNDING

# From this size on, the norm of a matrix is bounded by a power of its Gram matrix, because eigenvalues take minutes.
LARGE = 1536
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
