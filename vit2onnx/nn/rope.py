"""Rotary position embedding of DINOv3: axial, over patch centres scaled to [-1, 1]."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Float32

ROPE_BASE = 100.0


def rope_periods(count: int, precision: str) -> Float32[np.ndarray, " quarter_head_dim"]:
    """The periods 100^(k / count), rounded to `precision`.

    The models were trained with this table in bfloat16, and so it was released; transformers and timm compute it in
    float32, which is up to 0.3 % off.
    """
    periods = ROPE_BASE ** (np.arange(count, dtype=np.float64) / count)
    return periods.astype(ml_dtypes.bfloat16 if precision == "bfloat16" else np.float32).astype(np.float32)


def in_other_precision(periods: Float32[np.ndarray, " quarter_head_dim"]) -> Float32[np.ndarray, " quarter_head_dim"]:
    """The table in the precision in which `periods` is not."""
    computed = rope_periods(len(periods), "float32")
    # Not the other way round, because those in bfloat16 come from the checkpoint.
    return rope_periods(len(periods), "bfloat16") if np.array_equal(periods, computed) else computed


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
