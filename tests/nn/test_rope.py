"""The rotary table against the formula of the DINOv3 paper's code, written in numpy with loops.

Grids are not square and not of the training size: on a square grid a swap of rows and columns hides in half of the
checks, and on the training size a wrong normalisation does.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit2onnx.nn.rope import rope_table

# 100^(k / 16), rounded to bfloat16, as measured for a head of 64 channels.
PERIODS = np.array(
    [1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5, 10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75]
)
GRIDS = [(14, 14), (3, 7), (7, 3), (1, 1), (1, 9), (9, 1), (32, 20)]
# |difference| from the formula in double precision: measured 8.0e-7 and 1.7e-15 over all grids. No chance is in the
# largest: six roundings of an angle of 2 pi, each to half a unit in its last place, come to 2.3e-6 and 4.2e-15.
LIMITS = {"float32": 8e-6, "float64": 2e-14}


def table(periods: jax.Array, grid_height: int, grid_width: int, num_prefix: int) -> list[jax.Array]:
    """Of one of two images, which share it; compiled, as models run it."""
    patches = jnp.zeros((2, grid_height, grid_width, 8), periods.dtype)
    both = jax.jit(rope_table, static_argnums=2)(periods, patches, num_prefix)
    for first, second in both:
        np.testing.assert_array_equal(first, second)
    return [first for first, _ in both]


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precision of a test, which JAX is set to."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def formula(grid_height: int, grid_width: int) -> np.ndarray:
    """The angle of every patch, row by row: 2 pi c / period, with c the patch's centre between -1 and 1."""
    angles = []
    for row in range(grid_height):
        for column in range(grid_width):
            centres = 2 * (row + 0.5) / grid_height - 1, 2 * (column + 0.5) / grid_width - 1
            angles.append([2 * math.pi * centre / period for centre in centres for period in PERIODS])
    return np.array(angles)


def angles_of(cos: jax.Array, sin: jax.Array) -> np.ndarray:
    """The angles of a table, between minus pi and pi."""
    return np.arctan2(np.asarray(sin), np.asarray(cos))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_table_is_the_formula(grid: tuple[int, int], dtype: str):
    cos, sin = table(jnp.asarray(PERIODS, dtype), *grid, 5)
    assert cos.dtype == sin.dtype == dtype
    assert cos.shape == sin.shape == (5 + grid[0] * grid[1], 32)
    angles = formula(*grid)
    np.testing.assert_allclose(cos[5:], np.cos(angles), rtol=0, atol=LIMITS[dtype])
    np.testing.assert_allclose(sin[5:], np.sin(angles), rtol=0, atol=LIMITS[dtype])


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
def test_prefix_is_not_rotated(num_prefix: int):
    cos, sin = table(jnp.asarray(PERIODS, "float32"), 3, 7, num_prefix)
    assert len(cos) == len(sin) == num_prefix + 21
    assert np.all(np.asarray(cos[:num_prefix]) == 1)
    assert np.all(np.asarray(sin[:num_prefix]) == 0)
    # The first patch is a corner, which is rotated.
    assert not np.any(np.asarray(sin[num_prefix]) == 0)


def test_first_half_follows_the_row_and_second_the_column():
    cos, sin = table(jnp.asarray(PERIODS, "float32"), 3, 7, 5)
    angles = angles_of(cos[5:], sin[5:]).reshape(3, 7, 2, 16)
    rows, columns = angles[:, :, 0], angles[:, :, 1]
    assert np.all(rows == rows[:, :1])
    assert np.all(columns == columns[:1])
    # By the longest period, whose angle stays within half a turn.
    assert np.all(np.diff(rows[:, 0, -1]) > 0)
    assert np.all(np.diff(columns[0, :, -1]) > 0)


def test_both_axes_span_the_same_angles_whatever_the_aspect():
    cos, sin = table(jnp.asarray(PERIODS, "float32"), 3, 7, 0)
    turned = table(jnp.asarray(PERIODS, "float32"), 7, 3, 0)
    for upright, other in zip((cos, sin), turned, strict=True):
        upright, other = np.asarray(upright).reshape(3, 7, 2, 16), np.asarray(other).reshape(7, 3, 2, 16)
        np.testing.assert_array_equal(upright, other.transpose(1, 0, 2, 3)[:, :, ::-1])


def test_unrounded_periods_give_another_table():
    cos, sin = table(jnp.asarray(PERIODS, "float32"), 14, 14, 0)
    exact = table(jnp.asarray(100 ** (np.arange(16) / 16), "float32"), 14, 14, 0)
    # Measured 7.5e-3, a thousand times the limit of the comparison with the formula.
    assert max(np.abs(np.asarray(a - b)).max() for a, b in zip((cos, sin), exact, strict=True)) > 1e-3
