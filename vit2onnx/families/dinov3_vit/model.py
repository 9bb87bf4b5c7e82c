"""The DINOv3 vision transformers as inference models.

Written from the paper (arXiv:2508.10104) and from facts about the published checkpoints. Tokens are ordered
CLS, registers, patches row by row.
"""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit2onnx.families.dinov3_vit.architecture import Architecture
from vit2onnx.nn import transformer
from vit2onnx.nn.layers import LayerNorm, PatchEmbed
from vit2onnx.nn.packing import Context, Places
from vit2onnx.nn.primitives import rotary_embedding
from vit2onnx.nn.rope import rope_angles_of_places, rope_periods, rope_table
from vit2onnx.nn.transformer import Block, Tokens, VisionTransformer, tokens_of
from vit2onnx.weights.keytable import LazyTensor


class Attention(transformer.Attention):
    """With rotated queries and keys."""

    def __init__(self, arch: Architecture):
        super().__init__(arch.embed_dim, arch.num_heads, bias=arch.qkv_bias, key_bias=arch.key_bias)

    def project(self, x: Tokens, context: Context) -> tuple[Tokens, Tokens, Tokens]:
        """Queries and keys, both rotated, and values; the heads of each side by side."""
        query, key = (rotary_embedding(y, *context.rope, num_heads=self.num_heads) for y in (self.q(x), self.k(x)))
        return query, key, self.v(x)


class Model(VisionTransformer):
    """A DINOv3 vision transformer: `model(pixel_values)` gives normed features for images of any size."""

    patch_embed: PatchEmbed
    cls_token: Float[Array, "1 1 embed_dim"]
    register_tokens: Float[Array, "1 registers embed_dim"] | None
    rope_periods: Float[Array, " quarter_head_dim"]
    blocks: tuple[Block, ...]
    norm: LayerNorm
    rope_theta: float = eqx.field(static=True)
    rope_precision: str = eqx.field(static=True)

    def __init__(self, arch: Architecture):
        self.patch_embed = PatchEmbed(arch.embed_dim, arch.patch_size)
        self.cls_token = jnp.zeros((1, 1, arch.embed_dim))
        registers = 1, arch.num_registers, arch.embed_dim
        self.register_tokens = jnp.zeros(registers) if arch.num_registers else None
        self.rope_periods = jnp.zeros(arch.head_dim // 4)
        size = arch.embed_dim, arch.ffn, arch.ffn_hidden, arch.act, arch.norm_eps
        self.blocks = tuple(Block(Attention(arch), *size) for _ in range(arch.depth))
        self.norm = LayerNorm(arch.embed_dim, arch.norm_eps)
        self.rope_theta, self.rope_precision = arch.rope_theta, arch.rope_periods

    def embed(self, pixel_values: Float[Array, "batch 3 height width"]) -> tuple[Tokens, Context]:
        """The tokens that enter the first block, and the rotation of each."""
        patches = self.patch_embed(pixel_values)
        num_prefix = sum(tokens.shape[1] for tokens in self.prefix)
        return tokens_of(self.prefix, patches), Context(rope_table(self.rope_periods, patches, num_prefix))

    def place(
        self, patches: Float[Array, "patches embed_dim"], places: Places
    ) -> tuple[Float[Array, "patches embed_dim"], Float[Array, "patches half_head_dim"]]:
        """Patches of packed images as they are, and the angles by which they are rotated."""
        return patches, rope_angles_of_places(self.rope_periods, places)

    def natively(self, tensors: Mapping[str, LazyTensor]) -> tuple["Model", Mapping[str, LazyTensor]]:
        """With RoPE periods in float32, as transformers computes them; or in bfloat16, if these are in float32."""
        precision = "bfloat16" if self.rope_precision == "float32" else "float32"
        (count,) = self.rope_periods.shape
        periods = rope_periods(count, precision, self.rope_theta)
        return self, {**tensors, "rope_periods": LazyTensor(periods.shape, periods.dtype.name, lambda: periods)}
