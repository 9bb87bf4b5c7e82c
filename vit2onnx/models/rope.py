"""Rotary position embedding of DINOv3: axial, over patch centres scaled to [-1, 1]."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rope_table(
    periods: Float[Array, " quarter_head_dim"], grid_height: int, grid_width: int, num_prefix: int
) -> tuple[Float[Array, "tokens half_head_dim"], Float[Array, "tokens half_head_dim"]]:
    """Cosines and sines of the angle by which each token is rotated.

    The first half of the angles follows the row, the second the column; prefix tokens get angle zero.
    Grid sizes may be symbolic. The order of operations is the publisher's: 2 pi c / period, in the dtype of `periods`.
    """
    shape = (grid_height, grid_width, periods.shape[0])

    def angles(axis: int, size: int) -> Array:
        index = jax.lax.broadcasted_iota(periods.dtype, shape, axis)
        centre = 2.0 * ((index + 0.5) / size) - 1.0
        return 2.0 * math.pi * centre / periods

    # Not jnp.concatenate, because jax2onnx infers a wrong length for it where a size is symbolic.
    patches = jax.lax.concatenate([angles(0, grid_height), angles(1, grid_width)], 2)
    patches = patches.reshape(grid_height * grid_width, 2 * periods.shape[0])
    prefix = jnp.zeros((num_prefix, 2 * periods.shape[0]), periods.dtype)
    table = jax.lax.concatenate([prefix, patches], 0)
    return jnp.cos(table), jnp.sin(table)
