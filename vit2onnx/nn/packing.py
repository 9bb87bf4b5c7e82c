"""Patches of many images in one sequence: where each image is in it, and attention that stays within each image.

A pack has the tokens [1, tokens] of all images, one image after the other, each with CLS, registers and patches row by
row. `grid_thw` [images, 3] says of each image: 1, rows and columns of patches. Nothing here belongs to a family.
Everything that depends on sizes is a primitive, because JAX does not know these sizes when it traces.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vit2onnx.nn.model import PackedFeatures
from vit2onnx.nn.primitives import attention, embedding, first_token, primitive

# Of each patch: its row, its column, and how many rows and columns its image has.
Places = Int[Array, "patches 4"]


class Pack(NamedTuple):
    """Which tokens of a pack are whose: where each image ends, each patch, and the CLS and registers of each image."""

    ends: Int[Array, " images"]
    patches: Int[Array, " patches"]
    prefix: Int[Array, "images prefix"]


class Context(NamedTuple):
    """What goes along with tokens to every block.

    `rope` holds cosines and sines [batch, tokens, half_head_dim]; it is empty in models without rotation. `pack` says
    where the images of a pack are; it is `None` for single images.
    """

    rope: tuple[Array, ...] = ()
    pack: Pack | None = None


def pack_of(
    pixel_values: Float[Array, "patches values"], grid_thw: Int[Array, "images 3"], num_prefix: int
) -> tuple[Pack, Places, Int[Array, "1 tokens"]]:
    """Where images are in a pack whose images have so many tokens before their patches; the places of all patches; and
    which row each token is of those of the prefix, followed by all patches.
    """
    # Graphs check here that the inputs fit each other.
    with jax.named_scope("grid_thw_must_fit_pixel_values"):
        ends = token_ends_p.bind(grid_thw, pixel_values, num_prefix=num_prefix)
    image = image_of_patch_p.bind(ends, pixel_values, num_prefix=num_prefix)
    places = patch_places_p.bind(image, ends, grid_thw, num_prefix=num_prefix)
    pack = Pack(
        ends, patch_tokens_p.bind(image, num_prefix=num_prefix), prefix_tokens_p.bind(ends, num_prefix=num_prefix)
    )
    return pack, places, token_sources_p.bind(ends, pixel_values, num_prefix=num_prefix)


def packed_rope(
    angles: Float[Array, "patches half_head_dim"], source: Int[Array, "1 tokens"], num_prefix: int
) -> tuple[Float[Array, "1 tokens half_head_dim"], Float[Array, "1 tokens half_head_dim"]]:
    """Cosines and sines of the angles of all tokens; those of the prefix are zero."""
    turned = embedding(before_patches_p.bind(angles, num_prefix=num_prefix), source)
    width = turned.shape[-1]
    # PARITY: onnxruntime computes the last numbers of an array in another way if their count is no multiple of 4. The
    # last image of a pack would then differ in its last bit from what it is elsewhere.
    wide = turned if width % 4 == 0 else jax.lax.concatenate([turned] * 4, 2)
    cos, sin = (jax.lax.slice_in_dim(x, 0, width, axis=2) for x in (jnp.cos(wide), jnp.sin(wide)))
    return cos, sin


def features_of_pack(tokens: Float[Array, "1 tokens embed_dim"], pack: Pack) -> PackedFeatures:
    """Features of patches and images from the tokens after the final norm."""
    rows = tokens.reshape(tokens.shape[1:])
    prefix = embedding(rows, pack.prefix)
    return PackedFeatures(embedding(rows, pack.patches), first_token(prefix), after_first_p.bind(prefix))


def attention_within(
    query: Float[Array, "batch tokens embed_dim"],
    key: Float[Array, "batch tokens embed_dim"],
    value: Float[Array, "batch tokens embed_dim"],
    context: Context,
    *,
    num_heads: int,
) -> Float[Array, "batch tokens embed_dim"]:
    """Attention of each token to all tokens of its image.

    ONNX: `Attention`. In a pack it depends on the recipe: `Loop` with one `Attention` per image, or one `Attention` of
    all images, padded to the longest.
    """
    if context.pack is None:
        return attention(query, key, value, num_heads=num_heads)
    return packed_attention_p.bind(query, key, value, context.pack.ends, num_heads=num_heads)


def _counts(grid: Array) -> Array:
    return grid[:, 1] * grid[:, 2]


def _token_ends(grid: Array, pixel_values: Array, *, num_prefix: int) -> Array:
    # PARITY: JAX cannot refuse a grid that does not fit; graphs do.
    return jnp.cumsum(_counts(grid) + num_prefix, dtype=grid.dtype)


def _starts(ends: Array) -> Array:
    return jax.lax.pad(ends, jnp.zeros((), ends.dtype), [(1, -1, 0)])


def _order(count: Any, like: Array) -> Array:
    return jax.lax.broadcasted_iota(like.dtype, (count,), 0)


def image_of(ends: Array, rows: Any) -> Array:
    """The number of the image [rows] to which each row belongs, of which those of each image end at `ends`."""
    return jnp.sum(_order(rows, ends)[:, None] >= ends[None, :], axis=1, dtype=ends.dtype)


def _image_of_patch(ends: Array, pixel_values: Array, *, num_prefix: int) -> Array:
    of_patches = ends - num_prefix * (_order(ends.shape[0], ends) + 1)
    return image_of(of_patches, pixel_values.shape[0])


def _patch_places(image: Array, ends: Array, grid: Array, *, num_prefix: int) -> Array:
    start = _starts(ends)[image] - num_prefix * image
    number = _order(image.shape[0], image) - start
    height, width = grid[:, 1][image], grid[:, 2][image]
    row = jax.lax.div(number, width)
    return jnp.stack([row, number - row * width, height, width], axis=1)


def _patch_tokens(image: Array, *, num_prefix: int) -> Array:
    return _order(image.shape[0], image) + num_prefix * (image + 1)


def _prefix_tokens(ends: Array, *, num_prefix: int) -> Array:
    return _starts(ends)[:, None] + _order(num_prefix, ends)[None, :]


def _token_sources(ends: Array, pixel_values: Array, *, num_prefix: int) -> Array:
    tokens: Any = pixel_values.shape[0] + num_prefix * ends.shape[0]
    image, order = image_of(ends, tokens), _order(tokens, ends)
    within = order - _starts(ends)[image]
    return jnp.where(within < num_prefix, within, order - num_prefix * image)[None]


def _before_patches(x: Array, *, num_prefix: int) -> Array:
    return jnp.concatenate([jnp.zeros((num_prefix, x.shape[1]), x.dtype), x])


def _after_first(x: Array) -> Array:
    return x[:, 1:]


def _packed_attention(query: Array, key: Array, value: Array, ends: Array, *, num_heads: int) -> Array:
    image = image_of(ends, query.shape[1])
    mask = (image[:, None] == image[None, :])[None, None]
    return attention(query, key, value, mask, num_heads=num_heads)


# The last token of each image, plus one. Graphs fail here if the grid does not fit the patches.
token_ends_p = primitive("token_ends", _token_ends)
image_of_patch_p = primitive("image_of_patch", _image_of_patch)
patch_places_p = primitive("patch_places", _patch_places)
# Which token each patch is, and which tokens are the CLS and the registers of each image.
patch_tokens_p = primitive("patch_tokens", _patch_tokens)
prefix_tokens_p = primitive("prefix_tokens", _prefix_tokens)
# Which row each token is of those of the prefix, followed by all patches.
token_sources_p = primitive("token_sources", _token_sources)
before_patches_p = primitive("before_patches", _before_patches)
after_first_p = primitive("after_first", _after_first)
packed_attention_p = primitive("packed_attention", _packed_attention)
