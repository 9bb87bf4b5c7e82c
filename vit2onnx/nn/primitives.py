"""The operations that ONNX has one operator for, as JAX primitives.

Models call these functions instead of spelling the mathematics out, so that a traced model still shows
one operation where ONNX has one operator, and so that sizes which the image decides are taken from arrays instead
of becoming JAX's arithmetic on the image's height and width. In JAX each primitive means the mathematics written
here, in the dtype of its inputs; `vit2onnx.exporting.lowerings` says which ONNX operator it becomes.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxtyping import Array, Bool, Float, Int

# How many sums each dot product is made of at most. onnxruntime adds up few rows one product after the other, and one
# sum of 768 products rounds four times as far as torch does.
SUMS = 8


def primitive(name: str, meaning: Callable[..., Array]) -> Primitive:
    """Make a primitive whose value and XLA lowering are `meaning`; its output has the first input's dtype."""
    primitive = Primitive(f"vit2onnx_{name}")
    # Evaluated in compiled form, because operation by operation JAX would round differently than under `jit`;
    # and cached, because `jit` compiles anew for each new function.
    compiled = cache(lambda **params: jax.jit(partial(meaning, **params)))
    primitive.def_impl(lambda *arrays, **params: compiled(**params)(*arrays))
    primitive.def_abstract_eval(
        lambda *avals, **params: ShapedArray(jax.eval_shape(partial(meaning, **params), *avals).shape, avals[0].dtype)
    )
    mlir.register_lowering(primitive, mlir.lower_fun(meaning, multiple_results=False))
    return primitive


def _linear(x: Array, weight: Array, *bias: Array) -> Array:
    y = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (0,)), ((), ())))
    return y + bias[0] if bias else y


def _layer_norm(x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * weight + bias


def _residual(x: Array, change: Array) -> Array:
    return x + change


def _scale(x: Array, gamma: Array) -> Array:
    return x * gamma


def _convolution(x: Array, weight: Array, bias: Array, *, stride: int, padding: int, groups: int) -> Array:
    if groups == x.shape[1] and stride == 1:
        return _depthwise_convolution(x, weight, padding) + bias[:, None, None]
    pads = [(padding, padding)] * 2
    y = jax.lax.conv_general_dilated(x, weight, (stride, stride), pads, feature_group_count=groups)
    return y + bias[:, None, None]


def _depthwise_convolution(x: Array, weight: Array, padding: int) -> Array:
    """The sum of the shifted image: as exact as XLA's grouped convolution, and on a CPU twenty times as fast."""
    rows, columns = weight.shape[2:]
    padded = jnp.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = (padded.shape[axis] - size + 1 for axis, size in ((2, rows), (3, columns)))
    y = jnp.zeros((), x.dtype)
    for row in range(rows):
        shifted = jax.lax.slice_in_dim(padded, row, row + height, axis=2)
        for column in range(columns):
            patch = jax.lax.slice_in_dim(shifted, column, column + width, axis=3)
            y = y + patch * weight[:, 0, row, column, None, None]
    return y


def _mean_tokens(x: Array) -> Array:
    return jnp.mean(x, axis=1, keepdims=True)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + jax.lax.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _relu(x: Array) -> Array:
    # Not jnp.maximum, which becomes double precision while a graph is traced.
    return jax.lax.max(x, jnp.zeros_like(x))


def _split_heads(x: Array, num_heads: int) -> Array:
    batch, tokens, embed_dim = x.shape
    return x.reshape(batch, tokens, num_heads, embed_dim // num_heads)


def _rotary_embedding(x: Array, cos: Array, sin: Array, *, num_heads: int) -> Array:
    heads = _split_heads(x, num_heads)
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    rotated = jax.lax.concatenate([first * cos - second * sin, second * cos + first * sin], 3)
    return rotated.reshape(x.shape)


def _attention(query: Array, key: Array, value: Array, *mask: Array, num_heads: int) -> Array:
    query, key, value = (_split_heads(x, num_heads) for x in (query, key, value))
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    if mask:
        logits = jnp.where(mask[0], logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, axis=-1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return mixed.reshape(*mixed.shape[:2], -1)


def _first_token(x: Array) -> Array:
    return jax.lax.index_in_dim(x, 0, axis=1, keepdims=False)


def _last_token(x: Array) -> Array:
    return jax.lax.index_in_dim(x, -1, axis=1, keepdims=False)


def _pairs(mask: Array, x: Array) -> Array:
    return jnp.broadcast_to(mask[:, None, None, :], (mask.shape[0], 1, x.shape[1], mask.shape[1]))


def _embedding(table: Array, ids: Array) -> Array:
    # PARITY: onnxruntime refuses an id beyond the table, and takes a negative one from its end. JAX cannot refuse.
    return jnp.take(table, ids, axis=0, mode="clip")


def _first_rows(table: Array, ids: Array) -> Array:
    length: Any = ids.shape[1]
    if isinstance(length, int):
        return jax.lax.slice_in_dim(table, 0, length, axis=0)
    # A free length cannot be shown to be within the table.
    return jnp.take(table, jax.lax.broadcasted_iota(np.int32, (length,), 0), axis=0, mode="clip")


def _l2_normalise(x: Array) -> Array:
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def _dot_products(x: Array, y: Array) -> Array:
    parts = math.gcd(SUMS, x.shape[1])
    x, y = (rows.reshape(rows.shape[0], parts, rows.shape[1] // parts).swapaxes(0, 1) for rows in (x, y))
    return jnp.sum(jnp.einsum("pxc,pyc->pxy", x, y), axis=0)


def _add_to_each(x: Array, same: Array) -> Array:
    return x + same


def _flatten_grid(x: Array) -> Array:
    batch, grid_height, grid_width, channels = x.shape
    return x.reshape(batch, grid_height * grid_width, channels)


def _for_every_image(x: Array, images: Array) -> Array:
    return jnp.broadcast_to(x, (images.shape[0], *x.shape[1:]))


linear_p = primitive("linear", _linear)
layer_norm_p = primitive("layer_norm", _layer_norm)
residual_p = primitive("residual", _residual)
scale_p = primitive("scale", _scale)
convolution_p = primitive("convolution", _convolution)
mean_tokens_p = primitive("mean_tokens", _mean_tokens)
silu_p = primitive("silu", jax.nn.silu)
gelu_p = primitive("gelu", _gelu)
gelu_tanh_p = primitive("gelu_tanh", _gelu_tanh)
relu_p = primitive("relu", _relu)
rotary_embedding_p = primitive("rotary_embedding", _rotary_embedding)
attention_p = primitive("attention", _attention)
first_token_p = primitive("first_token", _first_token)
last_token_p = primitive("last_token", _last_token)
pairs_p = primitive("pairs", _pairs)
embedding_p = primitive("embedding", _embedding)
first_rows_p = primitive("first_rows", _first_rows)
l2_normalise_p = primitive("l2_normalise", _l2_normalise)
dot_products_p = primitive("dot_products", _dot_products)
add_to_each_p = primitive("add_to_each", _add_to_each)
flatten_grid_p = primitive("flatten_grid", _flatten_grid)
for_every_image_p = primitive("for_every_image", _for_every_image)


def linear(
    x: Float[Array, "*batch in_features"],
    weight: Float[Array, "in_features out_features"],
    bias: Float[Array, " out_features"] | None,
) -> Float[Array, "*batch out_features"]:
    """`x @ weight + bias`. ONNX: `MatMul` and `Add`."""
    return linear_p.bind(x, weight) if bias is None else linear_p.bind(x, weight, bias)


def layer_norm(
    x: Float[Array, "*batch embed_dim"],
    weight: Float[Array, " embed_dim"],
    bias: Float[Array, " embed_dim"],
    *,
    eps: float,
) -> Float[Array, "*batch embed_dim"]:
    """Normalise the last axis with its biased variance. ONNX: `LayerNormalization`."""
    return layer_norm_p.bind(x, weight, bias, eps=eps)


def residual(x: Float[Array, "*shape"], change: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """What a layer goes on from and what it makes of it, together. ONNX: `Add`."""
    return residual_p.bind(x, change)


def scale(x: Float[Array, "*batch embed_dim"], gamma: Float[Array, " #embed_dim"]) -> Float[Array, "*batch embed_dim"]:
    """A factor per channel, or one for all. ONNX: `Mul`, which broadcasts by itself."""
    return scale_p.bind(x, gamma)


def convolution(
    x: Float[Array, "batch in_channels height width"],
    weight: Float[Array, "out_channels channels_per_group kernel_height kernel_width"],
    bias: Float[Array, " out_channels"],
    *,
    stride: int,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "batch out_channels out_height out_width"]:
    """A strided convolution; pixels that fill no whole kernel are dropped. ONNX: `Conv`."""
    return convolution_p.bind(x, weight, bias, stride=stride, padding=padding, groups=groups)


def mean_tokens(x: Float[Array, "batch tokens embed_dim"]) -> Float[Array, "batch 1 embed_dim"]:
    """The mean over the tokens. ONNX: `ReduceMean`."""
    return mean_tokens_p.bind(x)


def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x * sigmoid(x)`. ONNX: `Sigmoid` and `Mul`, which runtimes know as one."""
    return silu_p.bind(x)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact (erf) GELU. ONNX: `Gelu`."""
    return gelu_p.bind(x)


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The approximation of GELU by a hyperbolic tangent. ONNX: `Gelu`."""
    return gelu_tanh_p.bind(x)


def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The positive part. ONNX: `Relu`."""
    return relu_p.bind(x)


# By the names that architectures have for them.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
}


def rotary_embedding(
    x: Float[Array, "batch tokens embed_dim"],
    cos: Float[Array, "batch tokens half_head_dim"],
    sin: Float[Array, "batch tokens half_head_dim"],
    *,
    num_heads: int,
) -> Float[Array, "batch tokens embed_dim"]:
    """Rotate the two halves of every head by the angles of its token. ONNX: `RotaryEmbedding`."""
    return rotary_embedding_p.bind(x, cos, sin, num_heads=num_heads)


def attention(
    query: Float[Array, "batch queries embed_dim"],
    key: Float[Array, "batch tokens embed_dim"],
    value: Float[Array, "batch tokens embed_dim"],
    mask: Bool[Array, "batch 1 queries tokens"] | None = None,
    *,
    num_heads: int,
) -> Float[Array, "batch queries embed_dim"]:
    """Scaled dot-product attention of every query to every token. ONNX: `Attention`.

    With a `mask` only to tokens where it is true; a query for which it never is gives numbers without meaning.
    """
    return attention_p.bind(query, key, value, *([] if mask is None else [mask]), num_heads=num_heads)


def first_token(x: Float[Array, "batch tokens embed_dim"]) -> Float[Array, "batch embed_dim"]:
    """The first token of every image. ONNX: `Gather`."""
    return first_token_p.bind(x)


def last_token(x: Float[Array, "batch tokens embed_dim"]) -> Float[Array, "batch embed_dim"]:
    """The last token of every text. ONNX: `Gather`, which counts from the end."""
    return last_token_p.bind(x)


def pairs(
    mask: Bool[Array, "batch tokens"], x: Float[Array, "batch queries channels"]
) -> Bool[Array, "batch 1 queries tokens"]:
    """A mask of tokens for every query of `x`, of which only the size counts. ONNX: `Unsqueeze` and `Expand`."""
    # Expanded, because onnxruntime refuses a mask of one row for several queries.
    return pairs_p.bind(mask, x)


def embedding(table: Float[Array, "entries embed_dim"], ids: Int[Array, "*shape"]) -> Float[Array, "*shape embed_dim"]:
    """The rows of a table by their numbers, which must be within it. ONNX: `Gather`."""
    return embedding_p.bind(table, ids)


def first_rows(table: Float[Array, "rows embed_dim"], ids: Int[Array, "batch tokens"]) -> Float[Array, "_ embed_dim"]:
    """As many rows of a table as `ids` has tokens. ONNX: `Slice`."""
    return table if ids.shape[1] == table.shape[0] else first_rows_p.bind(table, ids)


def l2_normalise(x: Float[Array, "*batch embed_dim"]) -> Float[Array, "*batch embed_dim"]:
    """The last axis brought to length one; zeros become NaN. ONNX: `Mul`, `ReduceSum`, `Sqrt` and `Div`."""
    return l2_normalise_p.bind(x)


def dot_products(x: Float[Array, "rows embed_dim"], y: Float[Array, "others embed_dim"]) -> Float[Array, "rows others"]:
    """The dot product of every row with every other. ONNX: `Reshape`, `Transpose`, `MatMul` and `ReduceSum`."""
    return dot_products_p.bind(x, y)


def add_to_each(x: Float[Array, "..."], same: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same added to every part of `x` of its shape. ONNX: `Add`, which broadcasts by itself."""
    return add_to_each_p.bind(x, same)


def flatten_grid(
    x: Float[Array, "batch grid_height grid_width channels"],
) -> Float[Array, "batch patches channels"]:
    """The patches of a grid, row by row. ONNX: `Reshape`, which counts the patches by itself."""
    return flatten_grid_p.bind(x)


def for_every_image(
    x: Float[Array, "1 tokens channels"], images: Float[Array, "batch ..."]
) -> Float[Array, "batch tokens channels"]:
    """The same tokens for every image of a batch, of which only the size counts. ONNX: `Expand`."""
    return x if images.shape[0] == 1 else for_every_image_p.bind(x, images)
