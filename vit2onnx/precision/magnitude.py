"""How large a value can be, whatever the input is: what an abstract interpretation of a graph carries along.

All numbers are upper bounds in double precision. Each operation enlarges them by `ROUNDING`, so that they hold for
graphs that compute in float16 with sums in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vit2onnx.precision.affine import Affine, Read
from vit2onnx.precision.bound_arrays import (
    ROUNDING,
    finite,
    least,
    of_channels,
    of_fewer_groups,
    of_groups,
    times,
    transposed,
    without,
)

# From channels to groups of so many parts: an array like the bounds whose last axis is the groups.
Lengths = Callable[[int], np.ndarray | None]


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

    @classmethod
    def of(cls, number: float, *, table: bool = False) -> "Magnitude":
        """Of a value none of whose elements is larger than a number."""
        return cls(np.asarray(number), table=table)

    @classmethod
    def of_constant(cls, read: Read) -> "Magnitude":
        """Of an array that is read when it is needed, and of which the largest of each channel is kept."""
        value = read()
        rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
        # Not the largest absolute value, which takes the memory of the array once more.
        largest = np.maximum(rows.max(axis=0), -rows.min(axis=0)).astype(np.float64)
        return cls(largest if value.ndim else largest[0], value=lambda: read().astype(np.float64))

    @classmethod
    def any_of(cls, found: Sequence["Magnitude"]) -> "Magnitude":
        """Of a value that is one of several."""
        largest = np.maximum.reduce(np.broadcast_arrays(*(one.largest for one in found)))
        if {one.axis for one in found} != {-1}:
            return cls(largest)

        def lengths(groups: int) -> np.ndarray | None:
            known = [length for one in found if (length := one.length_of(groups)) is not None]
            return np.maximum.reduce(np.broadcast_arrays(*known)) if len(known) == len(found) else None

        return cls(largest, lengths=lengths, groups=max(one.groups for one in found))

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
        return least(known) if known else None

    def _of_box(self, groups: int, size: int | None) -> np.ndarray | None:
        if self.largest.ndim < -self.axis:
            return None if size is None else np.asarray(self.most * np.sqrt(size / groups))
        box = np.moveaxis(self.largest, self.axis, -1)
        if box.shape[-1] == 1 and size is not None:
            box = np.broadcast_to(box, (*box.shape[:-1], size))
        if size not in (None, box.shape[-1]) or size is None or box.shape[-1] % groups:
            return None
        parts = box.reshape(*box.shape[:-1], groups, -1)
        return np.moveaxis(np.linalg.norm(parts, axis=-1), -1, self.axis)

    def weakened(self, largest: np.ndarray) -> "Magnitude":
        """The same, but for what is known of single elements, and for what an elementwise function destroys."""
        return Magnitude(largest, lengths=self.length_of, groups=self.groups, axis=self.axis)

    def length_of(self, groups: int) -> np.ndarray | None:
        """`length`, if the size of the axis is known by itself."""
        size = self.largest.shape[self.axis] if self.largest.ndim >= -self.axis else 1
        return self.length(groups, size if size > 1 else None)

    def rows(self) -> "Magnitude":
        """Any of the rows along the last axis, or a mean of some."""
        largest = of_channels(self.largest)
        if self.axis != -1:
            return Magnitude(largest)
        return Magnitude(
            largest,
            lengths=lambda groups: of_channels(self.length_of(groups)),
            groups=self.groups,
            affine=self.affine,
            table=self.table or self.value is not None,
        )

    def elements(self) -> "Magnitude":
        """Some of the elements, in any order."""
        return Magnitude.of(self.most, table=self.table)

    def times(self, factors: np.ndarray) -> "Magnitude":
        """Multiplied by constants, of which the last axis counts."""
        most = of_channels(np.abs(factors))
        largest = finite(self.largest * most) * (1 + ROUNDING)
        if self.axis != -1:
            return Magnitude(largest)
        affine = None
        if self.affine is not None and factors.size in (1, self.affine.shift.size):
            affine = self.affine.times(factors.reshape(-1))

        def lengths(groups: int) -> np.ndarray | None:
            found = self.length_of(groups)
            return None if found is None else finite(found * of_groups(most, groups)) * (1 + ROUNDING)

        return Magnitude(largest, lengths=lengths, groups=self.groups, affine=affine, table=self.table)

    def times_matrix(self, weight: Read) -> "Magnitude":
        """Multiplied by a matrix [in, out]."""
        if self.axis != -1:
            return unknown()
        matrix = weight()
        box = np.broadcast_to(finite(self.largest), np.broadcast_shapes(self.largest.shape, matrix.shape[:1]))
        with np.errstate(invalid="ignore", over="ignore"):
            largest = finite(box @ np.abs(matrix))
        affine = None
        if self.affine is not None and self.affine.weight is None:
            affine = self.affine.times_matrix(weight)
            largest = np.minimum(largest, affine.largest)
        elif (length := self.length(self.groups, len(matrix))) is not None:
            parts = matrix.reshape(length.shape[-1] if length.ndim else 1, -1, matrix.shape[1])
            largest = np.minimum(largest, finite(np.atleast_1d(length) @ np.linalg.norm(parts, axis=1)))
        return Magnitude(largest * (1 + ROUNDING), affine=affine)

    def mixed(self, weight: float) -> "Magnitude":
        """Sums of rows, weighted by numbers whose absolute values sum up to `weight` at most."""
        return Magnitude(
            without(self.largest, -2) * weight * (1 + ROUNDING),
            lengths=lambda groups: times(self.length_of(groups), weight * (1 + ROUNDING)),
            groups=self.groups,
        )

    def rotated(self, heads: int, size: int | None) -> "Magnitude":
        """Pairs of channels, half a head apart, rotated: which changes no length of a pair."""
        if not heads or not size:
            return unknown()
        box = np.broadcast_to(self.largest, np.broadcast_shapes(self.largest.shape, (size,)))
        halves = box.reshape(*box.shape[:-1], heads, 2, -1)
        pairs = np.linalg.norm(halves, axis=-2, keepdims=True)
        largest = np.broadcast_to(pairs, halves.shape).reshape(box.shape)

        def lengths(groups: int) -> np.ndarray | None:
            return times(self.length(groups, size), 1 + ROUNDING) if heads % groups == 0 else None

        return Magnitude(largest * (1 + ROUNDING), lengths=lengths, groups=heads)

    def transposed(self, order: Sequence[int]) -> "Magnitude":
        """All axes of the value in another order."""
        rank = len(order)

        def lengths(groups: int) -> np.ndarray | None:
            found = self.length_of(groups)
            return None if found is None else transposed(found, order)

        return replace(
            self,
            largest=transposed(self.largest, order),
            axis=order.index(rank + self.axis) - rank,
            lengths=lengths,
            total=np.inf,
        )

    def heads_split(self, size: int, heads: int) -> "Magnitude":
        """So many channels as heads: [..., heads, channels of a head]."""
        flat = np.broadcast_to(of_channels(self.largest), size)

        def lengths(groups: int) -> np.ndarray | None:
            found = of_channels(self.length_of(heads)) if groups == 1 else None
            return None if found is None else np.broadcast_to(found, heads).reshape(heads, 1)

        return Magnitude(flat.reshape(heads, -1), lengths=lengths)

    def heads_merged(self, heads: int, size: int) -> "Magnitude":
        """Heads [..., heads, channels of a head] as channels."""
        whole = np.broadcast_to(self.largest, np.broadcast_shapes(self.largest.shape, (heads, size)))
        flat = whole.reshape(-1, heads * size).max(axis=0)

        def lengths(groups: int) -> np.ndarray | None:
            found = self.length_of(1)
            if found is None:
                return None
            each = np.broadcast_to(found, np.broadcast_shapes(found.shape, (heads, 1))).reshape(-1, heads).max(axis=0)
            return of_fewer_groups(each, groups)

        return Magnitude(flat, lengths=lengths, groups=heads)


def unknown() -> Magnitude:
    """Nothing is known of a value."""
    return Magnitude.of(np.inf)
