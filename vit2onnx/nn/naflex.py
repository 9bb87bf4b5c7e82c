"""Learned position tables for images of different sizes in one batch, given as patches with a grid for each image.

The table is resized as PyTorch's `interpolate` does in `bilinear` mode with `antialias`. Place i of n lies at the point
(i + 1/2) * entries / n of the table, and entry j at j + 1/2. Multiplied by 2 n, both are whole numbers, and so are the
weights of the triangular kernel before they are divided by their sum. These are exact in single precision for grids of
up to half a million rows, so that only the quotient is rounded.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit2onnx.nn.primitives import primitive


def odd_numbers(count: int) -> np.ndarray:
    """1, 3, 5, …: twice the place of each entry of a table."""
    return np.arange(1, 2 * count, 2)


def resize_weights(size: Array, index: Array, entries: int) -> Array:
    """The weight [batch, tokens, entries] of each entry at the places `index` [batch, tokens] of `size` [batch, 1].

    Both are whole numbers in floating point.
    """
    size, index = size[:, :, None], index[:, :, None]
    apart = size * odd_numbers(entries).astype(size.dtype) - (2 * entries * index + entries)
    # A table that shrinks is smoothed by a kernel as much wider.
    reach = 2 * jax.lax.max(size, jnp.full_like(size, entries))
    triangle = reach - jnp.abs(apart)
    weights = jax.lax.max(triangle, jnp.zeros_like(triangle))
    return weights / weights.sum(axis=2, keepdims=True)


def places(spatial_shapes: Array, tokens: Any) -> tuple[Array, Array]:
    """The row and the column [batch, tokens] of each token. Those behind the grid are in the first of both.

    The number of `tokens` is symbolic where it is free.
    """
    rows, columns = (jax.lax.slice_in_dim(spatial_shapes, axis, axis + 1, axis=1) for axis in (0, 1))
    count = jax.lax.broadcasted_iota(spatial_shapes.dtype, (1, tokens), 1)
    token = jnp.where(count < rows * columns, count, jnp.zeros_like(count))
    row = jax.lax.div(token, jnp.broadcast_to(columns, token.shape))
    return row, token - row * columns


def _resized_positions(table: Array, spatial_shapes: Array, patches: Array) -> Array:
    rows, columns, channels = table.shape
    row, column = places(spatial_shapes, patches.shape[1])
    of_rows, of_columns = (
        resize_weights(spatial_shapes[:, axis, None].astype(table.dtype), index.astype(table.dtype), entries)
        for axis, index, entries in ((0, row, rows), (1, column, columns))
    )
    weights = of_rows[:, :, :, None] * of_columns[:, :, None, :]
    return weights.reshape(*patches.shape[:2], rows * columns) @ table.reshape(rows * columns, channels)


resized_positions_p = primitive("resized_positions", _resized_positions)


def resized_positions(
    table: Float[Array, "rows columns embed_dim"],
    spatial_shapes: Int[Array, "batch 2"],
    patches: Float[Array, "batch tokens ..."],
) -> Float[Array, "batch tokens embed_dim"]:
    """The position of each token: the table resized to the grid of its image, row by row.

    `spatial_shapes` are rows and columns of the grids, at least one each. Of `patches` only the sizes count. Tokens
    behind the grid are padding and get the first position, as in transformers.
    """
    return resized_positions_p.bind(table, spatial_shapes, patches)
