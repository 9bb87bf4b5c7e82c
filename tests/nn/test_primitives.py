"""Every primitive against an oracle that shares no code with it: torch, or numpy one number at a time.

The oracle computes in double precision for both of ours, so that what is measured is our rounding alone. The inputs
are such that a wrong epsilon, a tanh GELU, a missing scale or swapped axes would show: variances around epsilon,
large logits, images that are neither square nor a multiple of the patch. One layer cannot show how errors add up
over a model; `test_dinov3_vit.py` does.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.rounding import LAYER_LIMIT, floors
from vit2onnx.nn import primitives

HEADS, EPS = 3, 1e-5
# In floors of single precision, of which double has 2^-29: measured 1.04 and 0.97 * 2^-29.
LIMITS = {"float32": LAYER_LIMIT, "float64": 10 * 2**-29}


class Example(NamedTuple):
    """A primitive, what it is called with, and the oracle, which takes the same in double or in single precision."""

    function: Callable[..., jax.Array]
    inputs: tuple[np.ndarray, ...]
    oracle: Callable[..., np.ndarray]


def normal(seed: int, *shape: int) -> np.ndarray:
    """Values that single precision holds exactly, so that both precisions start from the same."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(np.float64)


def typed(x: np.ndarray, dtype: str) -> np.ndarray:
    """In another precision, unless it holds no fractions."""
    return x.astype(dtype) if x.dtype.kind == "f" else x


def in_torch(function: Callable[..., torch.Tensor]) -> Callable[..., np.ndarray]:
    return lambda *arrays: function(*map(torch.from_numpy, arrays)).numpy()


def torch_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    heads = [x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (query, key, value)]
    return functional.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)


def rotate_half(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Per head and token: the first half becomes x1 cos - x2 sin, the second x2 cos + x1 sin."""
    batch, tokens, embed_dim = x.shape
    head_dim = embed_dim // HEADS
    half = head_dim // 2
    rotated = np.empty_like(x)
    for b, t, head, i in np.ndindex(batch, tokens, HEADS, half):
        first, second = head * head_dim + i, head * head_dim + half + i
        rotated[b, t, first] = x[b, t, first] * cos[b, t, i] - x[b, t, second] * sin[b, t, i]
        rotated[b, t, second] = x[b, t, second] * cos[b, t, i] + x[b, t, first] * sin[b, t, i]
    return rotated


def examples() -> dict[str, Example]:
    """An example of every primitive."""
    x, weight, bias, gamma = normal(0, 2, 7, 24), normal(1, 24, 40), normal(2, 40), normal(3, 24)
    shift = normal(4, 24)
    # Rows whose variance is from far below to far above EPS, about a mean that is not zero.
    deviations = np.logspace(-4, 1, 14, dtype=np.float32).astype(np.float64).reshape(14, 1)
    uneven = ((normal(5, 12, 14, 24) + 0.5) * deviations).astype(np.float32).astype(np.float64)
    images, kernel, kernel_bias = normal(6, 2, 3, 50, 37), normal(7, 24, 3, 16, 16), normal(8, 24)
    # Smaller than the kernel in height, so that its padding on both sides counts.
    maps, depthwise = normal(13, 2, 24, 5, 9), normal(14, 24, 1, 7, 7)
    angles = normal(9, 2, 7, 4)
    cos, sin = (table.astype(np.float32).astype(np.float64) for table in (np.cos(angles), np.sin(angles)))
    logits = np.linspace(-12, 12, 481, dtype=np.float32).astype(np.float64)
    query_key_value = tuple(3 * normal(seed, 2, 7, 24) for seed in (10, 11, 12))
    # Fewer queries than keys, and texts and images with padding.
    query = 3 * normal(15, 2, 3, 24)
    kept = np.array([[True] * 7, [True] * 4 + [False] * 3])
    mask = np.repeat(kept[:, None, None], 3, axis=2)
    ids = np.array([[3, 0, 0, 11], [5, 5, 1, 2]], np.int32)
    return {
        "linear": Example(
            primitives.linear,
            (x, weight, bias),
            in_torch(lambda x, weight, bias: functional.linear(x, weight.T, bias)),
        ),
        "linear_without_bias": Example(
            lambda x, weight: primitives.linear(x, weight, None),
            (x, weight),
            in_torch(lambda x, weight: functional.linear(x, weight.T)),
        ),
        "layer_norm": Example(
            partial(primitives.layer_norm, eps=EPS),
            (uneven, gamma, shift),
            in_torch(lambda x, weight, bias: functional.layer_norm(x, (24,), weight, bias, EPS)),
        ),
        "scale": Example(primitives.scale, (x, gamma), np.multiply),
        "convolution": Example(
            partial(primitives.convolution, stride=16),
            (images, kernel, kernel_bias),
            in_torch(partial(functional.conv2d, stride=16)),
        ),
        "depthwise_convolution": Example(
            partial(primitives.convolution, stride=1, padding=3, groups=24),
            (maps, depthwise, kernel_bias),
            in_torch(partial(functional.conv2d, padding=3, groups=24)),
        ),
        "mean_tokens": Example(primitives.mean_tokens, (uneven,), lambda x: x.mean(1, keepdims=True)),
        "silu": Example(primitives.silu, (logits,), in_torch(functional.silu)),
        "gelu": Example(primitives.gelu, (logits,), in_torch(functional.gelu)),
        "gelu_tanh": Example(primitives.gelu_tanh, (logits,), in_torch(partial(functional.gelu, approximate="tanh"))),
        "relu": Example(primitives.relu, (logits,), in_torch(functional.relu)),
        "rotary_embedding": Example(partial(primitives.rotary_embedding, num_heads=HEADS), (x, cos, sin), rotate_half),
        "attention": Example(
            partial(primitives.attention, num_heads=HEADS), query_key_value, in_torch(torch_attention)
        ),
        "masked_attention": Example(
            partial(primitives.attention, num_heads=HEADS),
            (query, *query_key_value[1:], mask),
            in_torch(torch_attention),
        ),
        "pairs": Example(primitives.pairs, (kept, query), lambda kept, _: np.repeat(kept[:, None, None], 3, axis=2)),
        "embedding": Example(primitives.embedding, (normal(16, 12, 24), ids), lambda table, ids: table[ids]),
        "first_rows": Example(primitives.first_rows, (normal(17, 9, 24), ids), lambda table, ids: table[:4]),
        "last_token": Example(primitives.last_token, (x,), lambda x: x[:, -1]),
        "l2_normalise": Example(primitives.l2_normalise, (uneven,), in_torch(partial(functional.normalize, dim=-1))),
        "dot_products": Example(primitives.dot_products, (normal(19, 5, 24), normal(20, 3, 24)), lambda x, y: x @ y.T),
        "dot_products_of_odd_rows": Example(
            primitives.dot_products, (normal(19, 5, 7), normal(20, 3, 7)), lambda x, y: x @ y.T
        ),
        "add_to_each": Example(primitives.add_to_each, (x, normal(18, 7, 24)), np.add),
        "scale_by_one_number": Example(primitives.scale, (x, gamma[:1]), np.multiply),
        "residual": Example(primitives.residual, (x, 3 * x[::-1]), lambda x, y: np.add(x, y)),
        "first_token": Example(primitives.first_token, (x,), lambda x: x[:, 0]),
        "flatten_grid": Example(primitives.flatten_grid, (maps,), in_torch(lambda x: x.flatten(1, 2))),
        "for_every_image": Example(
            primitives.for_every_image, (x[:1], images), lambda x, batch: np.concatenate([x] * len(batch))
        ),
    }


EXAMPLES = examples()
every_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precision of a test, which JAX is set to."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@every_example
def test_value_is_the_oracles(example: Example, dtype: str):
    found = example.function(*(jnp.asarray(typed(x, dtype)) for x in example.inputs))
    single = example.oracle(*(typed(x, "float32") for x in example.inputs))
    if single.dtype == bool:
        np.testing.assert_array_equal(found, single, strict=True)
        return
    assert found.dtype == dtype
    assert single.dtype == np.float32
    assert floors(found, example.oracle(*example.inputs), single) <= LIMITS[dtype]


@every_example
def test_eager_and_compiled_values_are_the_same_bits(example: Example, dtype: str):
    inputs = [jnp.asarray(typed(x, dtype)) for x in example.inputs]
    np.testing.assert_array_equal(example.function(*inputs), jax.jit(example.function)(*inputs))


@every_example
def test_shape_and_dtype_are_known_without_values(example: Example, dtype: str):
    inputs = [jax.ShapeDtypeStruct(x.shape, typed(x, dtype).dtype) for x in example.inputs]
    traced, value = jax.eval_shape(example.function, *inputs), example.oracle(*example.inputs)
    assert (traced.shape, traced.dtype) == (value.shape, typed(value, dtype).dtype)


@every_example
def test_a_traced_call_is_one_operation(example: Example):
    inputs = [jax.ShapeDtypeStruct(x.shape, typed(x, "float32").dtype) for x in example.inputs]
    names = [equation.primitive.name for equation in jax.make_jaxpr(example.function)(*inputs).eqns]
    assert len(names) == 1
    assert names[0].startswith("vit2onnx_")


def test_every_primitive_has_an_example():
    ours = {name.removesuffix("_p") for name in vars(primitives) if name.endswith("_p")}
    again = {"linear_without_bias", "depthwise_convolution", "masked_attention", "scale_by_one_number"}
    again |= {"dot_products_of_odd_rows"}
    assert ours == EXAMPLES.keys() - again


def test_gelu_is_not_the_tanh_approximation():
    logits = EXAMPLES["gelu"].inputs[0]
    approximated = in_torch(partial(functional.gelu, approximate="tanh"))(logits)
    # Measured 4.7e-4, a thousand times our own rounding, so that the limit tells the two apart.
    assert np.abs(approximated - primitives.gelu(jnp.asarray(logits, "float32"))).max() > 4e-4


def test_attention_survives_logits_that_overflow_an_exponential():
    x = jnp.full((1, 3, 8), 100.0)
    found = primitives.attention(x, x, x, num_heads=1)
    # Measured one unit in the last place, 7.6e-6.
    np.testing.assert_allclose(found, x, rtol=1e-6, atol=0)


def test_patches_ignore_pixels_beyond_the_last_whole_one():
    images, kernel, bias = (jnp.asarray(x, "float32") for x in EXAMPLES["convolution"].inputs)
    project = partial(primitives.convolution, stride=16)
    found = project(images.at[:, :, 48:].set(jnp.nan).at[:, :, :, 32:].set(jnp.nan), kernel, bias)
    np.testing.assert_array_equal(found, project(images, kernel, bias))


def test_silu_survives_logits_that_overflow_an_exponential():
    found = primitives.silu(jnp.asarray([-1e4, 1e4], "float32"))
    np.testing.assert_array_equal(found, [0, 1e4])


def test_one_image_needs_no_copy():
    x = jnp.ones((1, 5, 24))
    assert primitives.for_every_image(x, jnp.zeros((1, 3, 32, 48))) is x


def test_what_is_masked_does_not_count():
    """To the bit, whatever stands there."""
    query, key, value, mask = (jnp.asarray(typed(x, "float32")) for x in EXAMPLES["masked_attention"].inputs)
    attend = partial(primitives.attention, mask=mask, num_heads=HEADS)
    other = [x.at[1, 4:].set(1e3) for x in (key, value)]
    np.testing.assert_array_equal(attend(query, key, value), attend(query, *other))


def test_a_table_of_the_right_length_is_left_as_it_is():
    table = jnp.ones((4, 24))
    assert primitives.first_rows(table, jnp.zeros((2, 4), jnp.int32)) is table


def test_a_text_longer_than_the_table_is_refused():
    with pytest.raises(TypeError, match="limit_indices"):
        primitives.first_rows(jnp.ones((4, 24)), jnp.zeros((2, 5), jnp.int32))


def test_zeros_have_no_direction():
    """As in transformers, which divides by their length."""
    assert np.isnan(primitives.l2_normalise(jnp.zeros((1, 24)))).all()
