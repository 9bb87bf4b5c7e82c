"""Learned position tables, resized to the grid of an image's patches.

The table is resized by two matrices, one for rows and one for columns, which follow from the sizes of both grids
alone. Place i of n lies at the point (i + 1/2) * entries / (n + offset) - 1/2 of the table. Its whole part and its
fraction are computed in whole numbers, so that only the weights of the kernel are rounded.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit2onnx.nn.primitives import primitive

# PARITY: the constant of Keys' cubic kernel in PyTorch's bicubic resizing, by whether that is antialiased.
CUBIC = {False: -0.75, True: -0.5}
# Entries that the kernel takes in on either side of a place.
REACH = 2


def cubic(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel with the constant `a`, by which PyTorch resizes in `bicubic` mode.

    Without branches: outside [-2, 2] both terms are zero, outside [-1, 1] the second is. At whole numbers it is exact.
    """
    # Not jnp.maximum, which becomes double precision while a graph is traced.
    outer, inner = (jax.lax.max(reach - jnp.abs(distance), jnp.zeros_like(distance)) for reach in (2, 1))
    return a * outer * outer * (1 - outer) + inner * inner * (4 * a + 3 - 2 * inner)


def clamped(entries: int) -> np.ndarray:
    """The entry that stands for each place of a table, and for `REACH` places beyond either edge, which is the edge."""
    return np.clip(np.arange(-REACH, entries + REACH), 0, entries - 1)


def distances(place: Array, size: Any, other: Any, entries: int, *, beyond: int, tenths: int, dtype: Any) -> Array:
    """[places, entries + 2 * beyond]: how far each place is from each entry, and from `beyond` more at both ends.

    `place` [places, 1] is the number of each along its axis. `size` and `other` are the sizes of this and of the other
    axis: numbers, or arrays [places, 1]. `tenths` are those of the offset. A table that keeps its size on both axes
    stays as it is, whatever the offset.
    """
    shape = (place.shape[0], entries + 2 * beyond)
    column = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    place, size, other = (jnp.asarray(number, jnp.int32) for number in (place, size, other))
    # PARITY: whole numbers, because a coordinate in single precision moves features as far as all other rounding does.
    under = 20 * size
    if tenths:
        under = under + jnp.where((size == entries) & (other == entries), jnp.int32(0), jnp.int32(2 * tenths))
    under = jnp.broadcast_to(under, shape)
    over = jnp.broadcast_to((2 * place + 1) * (10 * entries), shape)
    whole = jax.lax.div(over, under)
    fraction = (over - whole * under).astype(dtype) / under.astype(dtype)
    return (column - beyond - whole).astype(dtype) + (0.5 - fraction)


def weights_of(
    place: Array, size: Any, other: Any, entries: int, *, antialias: bool, tenths: int, a: float, dtype: Any
) -> Array:
    """The weight [places, entries] of each entry at each place; see `distances`."""
    how: dict[str, Any] = {"tenths": tenths, "dtype": dtype}
    if not antialias:
        # What lies beyond an edge is added to the edge.
        clamping = (clamped(entries)[:, None] == np.arange(entries)).astype(dtype)
        return cubic(distances(place, size, other, entries, beyond=REACH, **how), a) @ clamping
    # A table that shrinks is smoothed by a kernel as much wider, and the weights within the table sum up to one.
    stretch = jax.lax.max(entries / jnp.asarray(size, dtype), jnp.ones((), dtype))
    weights = cubic(distances(place, size, other, entries, beyond=0, **how) / stretch, a)
    return weights / weights.sum(axis=1, keepdims=True)


def resize_matrix(size: Any, other: Any, entries: int, **how: Any) -> Array:
    """The matrix [size, entries] that resizes one axis of a table, of which the `other` axis is resized to `other`."""
    return weights_of(jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0), size, other, entries, **how)


def resized(
    table: Float[Array, "rows columns channels"], height: Any, width: Any, *, antialias: bool, tenths: int, a: float
) -> Array:
    """A table resized to [height, width, channels]; see `Positions`."""
    rows, columns, channels = table.shape
    how: dict[str, Any] = {"antialias": antialias, "tenths": tenths, "a": a, "dtype": table.dtype}
    of_rows = resize_matrix(height, width, rows, **how) @ table.reshape(rows, columns * channels)
    return jnp.matmul(resize_matrix(width, height, columns, **how), of_rows.reshape(height, columns, channels))


def _with_positions(patches: Array, table: Array, **how: Any) -> Array:
    return patches + resized(table, *patches.shape[1:3], **how)


def _with_positions_of_places(patches: Array, table: Array, places: Array, **how: Any) -> Array:
    rows, columns, channels = table.shape
    row, column, height, width = (places[:, number, None] for number in range(4))
    of_rows = weights_of(row, height, width, rows, dtype=table.dtype, **how)
    of_columns = weights_of(column, width, height, columns, dtype=table.dtype, **how)
    both = (of_rows[:, :, None] * of_columns[:, None, :]).reshape(-1, rows * columns)
    return patches + both @ table.reshape(rows * columns, channels)


with_positions_p = primitive("with_positions", _with_positions)
with_positions_of_places_p = primitive("with_positions_of_places", _with_positions_of_places)


class Positions(eqx.Module):
    """A learned square table, which is resized to the grid of an image's patches and added to them.

    By the cubic kernel of PyTorch's `interpolate` in `bicubic` mode, with `antialias` or without. `offset` is added to
    the rows and columns of the grid before the scale is taken, in tenths; a grid of the table's own size gets the table
    itself.
    """

    table: Float[Array, "entries entries embed_dim"]
    antialias: bool = eqx.field(static=True)
    offset: float = eqx.field(static=True)

    def __call__(
        self, patches: Float[Array, "batch grid_height grid_width embed_dim"]
    ) -> Float[Array, "batch grid_height grid_width embed_dim"]:
        return with_positions_p.bind(patches, self.table, **self.how)

    def of_places(
        self, patches: Float[Array, "patches embed_dim"], places: Int[Array, "patches 4"]
    ) -> Float[Array, "patches embed_dim"]:
        """The same for patches of many images; `places` are row, column, and height and width of the image's grid."""
        return with_positions_of_places_p.bind(patches, self.table, places, **self.how)

    @property
    def how(self) -> dict[str, Any]:
        """The parameters of `resized`."""
        return {"antialias": self.antialias, "tenths": round(10 * self.offset), "a": CUBIC[self.antialias]}
