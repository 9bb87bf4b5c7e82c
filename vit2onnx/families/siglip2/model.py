"""SigLIP2 as an inference model: an image tower, a text tower, and how well texts fit images.

Written from the paper (arXiv:2502.14786) and from facts about the published checkpoints. There is no CLS token. The
tokens of an image are its patches row by row, those of a text its ids in order.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit2onnx.families.siglip2.architecture import KORNIA_SCALES, Architecture
from vit2onnx.nn import transformer
from vit2onnx.nn.layers import LayerNorm, Linear, Mlp, PatchEmbed
from vit2onnx.nn.model import Features, Named
from vit2onnx.nn.naflex import resized_positions
from vit2onnx.nn.primitives import (
    add_to_each,
    attention,
    dot_products,
    embedding,
    first_rows,
    first_token,
    flatten_grid,
    for_every_image,
    l2_normalise,
    last_token,
    pairs,
    residual,
    scale,
)
from vit2onnx.nn.transformer import Block, Tokens
from vit2onnx.weights.keytable import LazyTensor


class Mask(NamedTuple):
    """Which tokens are no padding, and the same for every query."""

    keys: Bool[Array, "batch tokens"]
    pairs: Bool[Array, "batch 1 tokens tokens"]


class Attention(transformer.Attention):
    """With biases everywhere, and a mask if there is padding."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__(embed_dim, num_heads, bias=True, key_bias=True)

    def mix(self, query: Tokens, key: Tokens, value: Tokens, mask: Mask | None) -> Tokens:
        """Attention over all tokens but padding, then the output projection."""
        seen = None if mask is None else mask.pairs
        return self.proj(attention(query, key, value, seen, num_heads=self.num_heads))


class MapHead(eqx.Module):
    """Pools tokens by the attention of one learned query, the probe, and a feed-forward layer."""

    probe: Float[Array, "1 1 embed_dim"]
    attn: Attention
    norm: LayerNorm
    mlp: Mlp

    def __init__(self, arch: Architecture):
        self.probe = jnp.zeros((1, 1, arch.embed_dim))
        self.attn = Attention(arch.embed_dim, arch.num_heads)
        self.norm = LayerNorm(arch.embed_dim, arch.norm_eps)
        self.mlp = Mlp(arch.embed_dim, arch.ffn_hidden, arch.activation)

    def attend(self, tokens: Tokens, mask: Mask | None) -> Float[Array, "batch 1 embed_dim"]:
        """What the probe takes from the tokens."""
        query = for_every_image(self.attn.q(self.probe), tokens)
        keys = None if mask is None else pairs(mask.keys, query)
        mixed = attention(query, self.attn.k(tokens), self.attn.v(tokens), keys, num_heads=self.attn.num_heads)
        return self.attn.proj(mixed)

    def stages(self, tokens: Tokens, mask: Mask | None) -> Named:
        """The stages of the head; `pooled` is the embedding."""
        x = self.attend(tokens, mask)
        return {"head_attn": x, "pooled": first_token(residual(x, self.mlp(self.norm(x))))}


class Tower(eqx.Module):
    """Blocks and a final norm; what comes before and after is each tower's own. See `nn.model.Tower`."""

    blocks: eqx.AbstractVar[tuple[Block, ...]]
    norm: eqx.AbstractVar[LayerNorm]

    def trunk(self) -> list[tuple[str, Block]]:
        """The blocks in order, each with its path in the tower."""
        return [(f"blocks.{index}", block) for index, block in enumerate(self.blocks)]

    def features(self, stages: Named, _: Any) -> Features:
        """Features from the stages of the head."""
        return Features(stages["norm"], stages["pooled"])


class VisionTower(Tower):
    """A tower of images: all but how patches become tokens with positions."""

    embedded: ClassVar[str] = "patch_embed"

    patch_embed: PatchEmbed | Linear
    positions: Float[Array, "entries entries embed_dim"]
    blocks: tuple[Block, ...]
    norm: LayerNorm
    head: MapHead

    def __init__(self, arch: Architecture):
        patch_values = 3 * arch.patch_size**2
        self.patch_embed = (
            Linear(patch_values, arch.embed_dim) if arch.is_naflex else PatchEmbed(arch.embed_dim, arch.patch_size)
        )
        self.positions = jnp.zeros((arch.position_grid, arch.position_grid, arch.embed_dim))
        self.blocks = _blocks(arch.depth, arch.embed_dim, arch.num_heads, arch.ffn_hidden, arch)
        self.norm = LayerNorm(arch.embed_dim, arch.norm_eps)
        self.head = MapHead(arch)

    def head_stages(self, x: Tokens, mask: Mask | None) -> Named:
        """The norm of the last block's tokens, and what the head makes of it."""
        tokens = self.norm(x)
        return {"norm": tokens, **self.head.stages(tokens, mask)}


class FixedTower(VisionTower):
    """Takes images of one size; `positions` are added to the grid of their patches."""

    inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)

    def embed(self, pixel_values: Float[Array, "batch 3 height width"]) -> tuple[Tokens, None]:
        """The tokens that enter the first block."""
        return flatten_grid(add_to_each(self.patch_embed(pixel_values), self.positions)), None


class NaFlexTower(VisionTower):
    """Takes patches of images of any size, cut and padded by the user; `positions` are resized to each image's grid."""

    inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask", "spatial_shapes")

    def embed(
        self,
        pixel_values: Float[Array, "batch tokens values"],
        pixel_attention_mask: Int[Array, "batch tokens"],
        spatial_shapes: Int[Array, "batch 2"],
    ) -> tuple[Tokens, Mask]:
        """The tokens that enter the first block, and which of them are no padding."""
        positions = resized_positions(self.positions, spatial_shapes, pixel_values)
        tokens = residual(self.patch_embed(pixel_values), positions)
        keys = pixel_attention_mask.astype(bool)
        return tokens, Mask(keys, pairs(keys, tokens))


class TextTower(Tower):
    """Takes token ids; the embedding is that of the last token, whether it is padding or not. Nothing is masked."""

    inputs: ClassVar[tuple[str, ...]] = ("input_ids",)
    embedded: ClassVar[str] = "token_embed"

    token_embedding: Float[Array, "vocabulary text_dim"]
    positions: Float[Array, "length text_dim"]
    blocks: tuple[Block, ...]
    norm: LayerNorm
    head: Linear

    def __init__(self, arch: Architecture):
        self.token_embedding = jnp.zeros((arch.vocab_size, arch.text_dim))
        self.positions = jnp.zeros((arch.text_length, arch.text_dim))
        self.blocks = _blocks(arch.text_depth, arch.text_dim, arch.text_heads, arch.text_hidden, arch)
        self.norm = LayerNorm(arch.text_dim, arch.norm_eps)
        self.head = Linear(arch.text_dim, arch.projection_dim)

    def embed(self, input_ids: Int[Array, "batch tokens"]) -> tuple[Tokens, Any]:
        """The tokens that enter the first block."""
        return add_to_each(embedding(self.token_embedding, input_ids), first_rows(self.positions, input_ids)), None

    def head_stages(self, x: Tokens, _: Any) -> Named:
        """The norm of the last block's tokens, and the embedding."""
        tokens = self.norm(x)
        return {"norm": tokens, "pooled": self.head(last_token(tokens))}


class Model(eqx.Module):
    """A SigLIP2 with both towers, or one; see `nn.model.Model`. `logit_scale` is the logarithm of the factor."""

    vision: VisionTower | None
    text: TextTower | None
    logit_scale: Float[Array, " 1"] | None
    logit_bias: Float[Array, " 1"] | None

    def __init__(self, arch: Architecture):
        kind: type[VisionTower] = NaFlexTower if arch.is_naflex else FixedTower
        self.vision = kind(arch) if arch.depth else None
        self.text = TextTower(arch) if arch.text_depth else None
        both = self.vision is not None and self.text is not None
        self.logit_scale = jnp.zeros(1) if both else None
        self.logit_bias = jnp.zeros(1) if both else None

    def towers(self, interface: str) -> dict[str, Any]:
        """The towers of an interface: `vision`, `text`, or both for `pair`."""
        wanted = ("vision", "text") if interface == "pair" else (interface,)
        return {name: getattr(self, name) for name in wanted}

    def joint_stages(self, interface: str, pooled: Named) -> Named:
        """Embeddings of length one, and how well each text fits each image."""
        if interface != "pair" or self.logit_scale is None or self.logit_bias is None:
            return {}
        images, texts = (l2_normalise(pooled[name]) for name in ("vision", "text"))
        scaled = scale(dot_products(texts, images), jnp.exp(self.logit_scale))
        logits = add_to_each(scaled, self.logit_bias)
        return {"image_embeds": images, "text_embeds": texts, "logits_per_text": logits, "logits_per_image": logits.T}

    def natively(self, tensors: Mapping[str, LazyTensor]) -> tuple["Model", Mapping[str, LazyTensor]] | None:
        """With the temperature as kornia clamps it, if that changes it."""
        if self.logit_scale is None:
            return None
        value = tensors["logit_scale"].read()
        clamped = np.clip(value, *KORNIA_SCALES)
        if np.array_equal(clamped, value):
            return None
        return self, {**tensors, "logit_scale": LazyTensor(clamped.shape, clamped.dtype.name, lambda: clamped)}

    def without_registers(self, _: Mapping[str, LazyTensor]) -> tuple["Model", Mapping[str, LazyTensor]] | None:
        """Nothing: it has none."""
        return None


def _blocks(depth: int, width: int, heads: int, hidden: int, arch: Architecture) -> tuple[Block, ...]:
    how = width, "mlp", hidden, arch.activation, arch.norm_eps
    return tuple(Block(Attention(width, heads), *how, scaled=False) for _ in range(depth))
