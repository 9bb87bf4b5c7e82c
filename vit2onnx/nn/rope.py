"""Rotary position embedding of DINOv3: axial, over patch centres scaled to [-1, 1]."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from vit2onnx.nn.primitives import for_every_image, primitive


def rope_periods(count: int, precision: str, theta: float = 100.0) -> Float32[np.ndarray, " quarter_head_dim"]:
    """The periods theta^(k / count), rounded to `precision`.

    The models were trained with this table in bfloat16, and so it was released; transformers and timm compute it in
    float32, which is up to 0.3 % off.
    """
    periods = theta ** (np.arange(count, dtype=np.float64) / count)
    return periods.astype(ml_dtypes.bfloat16 if precision == "bfloat16" else np.float32).astype(np.float32)


def _angle(index: Array, size: Any, periods: Array) -> Array:
    """The angles of places with this `index` along an axis of some `size`, for each period."""
    centre = 2.0 * ((index + 0.5) / size) - 1.0
    return 2.0 * math.pi * centre / periods


def _rope_angles(periods: Array, patches: Array, *, num_prefix: int) -> Array:
    grid_height, grid_width = patches.shape[1:3]
    shape = (grid_height, grid_width, periods.shape[0])

    # A size is symbolic where it is free.
    def angles(axis: int, size: Any) -> Array:
        return _angle(jax.lax.broadcasted_iota(periods.dtype, shape, axis), size, periods)

    both = jax.lax.concatenate([angles(0, grid_height), angles(1, grid_width)], 2)
    both = both.reshape(1, grid_height * grid_width, 2 * periods.shape[0])
    prefix = jnp.zeros((1, num_prefix, 2 * periods.shape[0]), periods.dtype)
    return jax.lax.concatenate([prefix, both], 1)


def _rope_angles_of_places(periods: Array, places: Array) -> Array:
    def angles(axis: int) -> Array:
        index, size = (places[:, number, None].astype(periods.dtype) for number in (axis, 2 + axis))
        return _angle(index, size, periods)

    return jax.lax.concatenate([angles(0), angles(1)], 1)


rope_angles_p = primitive("rope_angles", _rope_angles)
rope_angles_of_places_p = primitive("rope_angles_of_places", _rope_angles_of_places)


def rope_table(
    periods: Float[Array, " quarter_head_dim"],
    patches: Float[Array, "batch grid_height grid_width channels"],
    num_prefix: int,
) -> tuple[Float[Array, "batch tokens half_head_dim"], Float[Array, "batch tokens half_head_dim"]]:
    """Cosines and sines of the angle by which each token is rotated. Of `patches` only the sizes count.

    The first half of the angles follows the row, the second the column; prefix tokens get angle zero.
    The order of operations is the publisher's: 2 pi c / period, in the dtype of `periods`.
    """
    angles = rope_angles_p.bind(periods, patches, num_prefix=num_prefix)
    return for_every_image(jnp.cos(angles), patches), for_every_image(jnp.sin(angles), patches)


def rope_angles_of_places(
    periods: Float[Array, " quarter_head_dim"], places: Int[Array, "patches 4"]
) -> Float[Array, "patches half_head_dim"]:
    """The angles of patches of many images; `places` are row, column, and height and width of the image's grid."""
    return rope_angles_of_places_p.bind(periods, places)
