"""The DINOv3 vision transformers as inference models.

Written from the paper (arXiv:2508.10104) and from facts about the published checkpoints. Tokens are ordered
CLS, registers, patches row by row.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit2onnx.families.dinov3_vit.architecture import Architecture
from vit2onnx.nn.layers import LayerNorm, LayerScale, Linear, Mlp, PatchEmbed, SwiGlu
from vit2onnx.nn.model import Features, Images, features_of, run
from vit2onnx.nn.primitives import attention, flatten_grid, for_every_image, residual, rotary_embedding
from vit2onnx.nn.rope import in_other_precision, rope_table
from vit2onnx.weights.keytable import LazyTensor

Tokens = Float[Array, "batch tokens embed_dim"]
Rope = tuple[Float[Array, "batch tokens half_head_dim"], Float[Array, "batch tokens half_head_dim"]]


class Attention(eqx.Module):
    """Multi-head self-attention with rotated queries and keys, of which the keys have no bias."""

    q: Linear
    k: Linear
    v: Linear
    proj: Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, arch: Architecture):
        square = arch.embed_dim, arch.embed_dim
        self.q = Linear(*square, bias=arch.qkv_bias)
        self.k = Linear(*square, bias=False)
        self.v = Linear(*square, bias=arch.qkv_bias)
        self.proj = Linear(*square)
        self.num_heads = arch.num_heads

    def project(self, x: Tokens, rope: Rope) -> tuple[Tokens, Tokens, Tokens]:
        """Queries and keys, both rotated, and values; the heads of each side by side."""
        query = rotary_embedding(self.q(x), *rope, num_heads=self.num_heads)
        key = rotary_embedding(self.k(x), *rope, num_heads=self.num_heads)
        return query, key, self.v(x)

    def mix(self, query: Tokens, key: Tokens, value: Tokens) -> Tokens:
        """What every token takes from all others."""
        return self.proj(attention(query, key, value, num_heads=self.num_heads))


class Block(eqx.Module):
    """One pre-norm transformer block."""

    norm1: LayerNorm
    attn: Attention
    ls1: LayerScale
    norm2: LayerNorm
    mlp: Mlp | SwiGlu
    ls2: LayerScale

    def __init__(self, arch: Architecture):
        self.norm1 = LayerNorm(arch.embed_dim, arch.norm_eps)
        self.attn = Attention(arch)
        self.ls1 = LayerScale(arch.embed_dim)
        self.norm2 = LayerNorm(arch.embed_dim, arch.norm_eps)
        self.mlp = (SwiGlu if arch.ffn == "swiglu" else Mlp)(arch.embed_dim, arch.ffn_hidden)
        self.ls2 = LayerScale(arch.embed_dim)

    def stages(self, x: Tokens, rope: Rope) -> dict[str, Tokens]:
        """Every intermediate result by its stage name, the last being `output`."""
        attn_in = self.norm1(x)
        query, key, value = self.attn.project(attn_in, rope)
        attn_raw = self.attn.mix(query, key, value)
        attn_scaled = self.ls1(attn_raw)
        post_attn = residual(x, attn_scaled)
        mlp_in = self.norm2(post_attn)
        mlp_raw = self.mlp(mlp_in)
        mlp_scaled = self.ls2(mlp_raw)
        return {
            "input": x,
            "attn_in": attn_in,
            "q": query,
            "k": key,
            "attn_raw": attn_raw,
            "attn_scaled": attn_scaled,
            "post_attn": post_attn,
            "mlp_in": mlp_in,
            "mlp_raw": mlp_raw,
            "mlp_scaled": mlp_scaled,
            "output": residual(post_attn, mlp_scaled),
        }

    def __call__(self, x: Tokens, rope: Rope) -> Tokens:
        return self.stages(x, rope)["output"]


class Model(eqx.Module):
    """A DINOv3 vision transformer: `model(pixel_values)` gives normed features for images of any size."""

    patch_embed: PatchEmbed
    cls_token: Float[Array, "1 1 embed_dim"]
    register_tokens: Float[Array, "1 registers embed_dim"]
    rope_periods: Float[Array, " quarter_head_dim"]
    blocks: tuple[Block, ...]
    norm: LayerNorm

    def __init__(self, arch: Architecture):
        self.patch_embed = PatchEmbed(arch.embed_dim, arch.patch_size)
        self.cls_token = jnp.zeros((1, 1, arch.embed_dim))
        self.register_tokens = jnp.zeros((1, arch.num_registers, arch.embed_dim))
        self.rope_periods = jnp.zeros(arch.head_dim // 4)
        self.blocks = tuple(Block(arch) for _ in range(arch.depth))
        self.norm = LayerNorm(arch.embed_dim, arch.norm_eps)

    def embed(self, pixel_values: Float[Array, "batch 3 height width"]) -> tuple[Tokens, Rope]:
        """The tokens that enter the first block, and the rotation of each."""
        patches = self.patch_embed(pixel_values)
        prefix = [self.cls_token, self.register_tokens]
        num_prefix = sum(tokens.shape[1] for tokens in prefix)
        rope = rope_table(self.rope_periods, patches, num_prefix)
        return jax.lax.concatenate([*(for_every_image(x, patches) for x in prefix), flatten_grid(patches)], 1), rope

    def trunk(self) -> list[tuple[str, Block]]:
        """The blocks in order, each with its path in the tree: `x = layer(x, rope)`."""
        return [(f"blocks.{index}", block) for index, block in enumerate(self.blocks)]

    def embed_stages(self, tokens: Tokens) -> dict[str, Tokens]:
        """What `embed` has made: CLS, registers and patches."""
        return {"patch_embed": tokens}

    def head_stages(self, tokens: Tokens) -> dict[str, Tokens]:
        """The norm of the last block's tokens."""
        return {"norm": self.norm(tokens)}

    def head(self, tokens: Tokens) -> Features:
        """Features from the last block's tokens."""
        return features_of(self.head_stages(tokens)["norm"])

    def __call__(self, pixel_values: Images) -> Features:
        """Features of normalised RGB images; `height` and `width` are in pixels and at least one patch."""
        return run(self, pixel_values)

    @staticmethod
    def natively(tensors: Mapping[str, LazyTensor]) -> Mapping[str, LazyTensor]:
        """The parameters with RoPE periods in the precision that `tensors` does not have."""
        periods = in_other_precision(tensors["rope_periods"].read())
        return {**tensors, "rope_periods": LazyTensor(periods.shape, periods.dtype.name, lambda: periods)}
