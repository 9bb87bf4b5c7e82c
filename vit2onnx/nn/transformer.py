"""The vision transformer that families share: pre-norm blocks with LayerScale, and what is the same before and after.

Tokens are ordered CLS, registers, patches row by row.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from vit2onnx.nn.layers import LayerNorm, LayerScale, Linear, Mlp, SwiGlu
from vit2onnx.nn.model import Features, Images, features_of, run
from vit2onnx.nn.primitives import attention, flatten_grid, for_every_image, residual

Tokens = Float[Array, "batch tokens embed_dim"]
Patches = Float[Array, "batch grid_height grid_width embed_dim"]


class Attention(eqx.Module):
    """Multi-head self-attention."""

    q: Linear
    k: Linear
    v: Linear
    proj: Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, embed_dim: int, num_heads: int, *, bias: bool, key_bias: bool):
        self.q = Linear(embed_dim, embed_dim, bias=bias)
        self.k = Linear(embed_dim, embed_dim, bias=key_bias)
        self.v = Linear(embed_dim, embed_dim, bias=bias)
        self.proj = Linear(embed_dim, embed_dim)
        self.num_heads = num_heads

    def project(self, x: Tokens, _: Any) -> tuple[Tokens, Tokens, Tokens]:
        """Queries, keys and values; the heads of each side by side."""
        return self.q(x), self.k(x), self.v(x)

    def mix(self, query: Tokens, key: Tokens, value: Tokens) -> Tokens:
        """Attention over all tokens, then the output projection."""
        return self.proj(attention(query, key, value, num_heads=self.num_heads))


class Block(eqx.Module):
    """One pre-norm transformer block. Its context goes to the attention as it is."""

    norm1: LayerNorm
    attn: Attention
    ls1: LayerScale
    norm2: LayerNorm
    mlp: Mlp | SwiGlu
    ls2: LayerScale

    def __init__(self, attn: Attention, embed_dim: int, ffn: str, ffn_hidden: int, activation: str, norm_eps: float):
        self.norm1 = LayerNorm(embed_dim, norm_eps)
        self.attn = attn
        self.ls1 = LayerScale(embed_dim)
        self.norm2 = LayerNorm(embed_dim, norm_eps)
        self.mlp = (SwiGlu if ffn == "swiglu" else Mlp)(embed_dim, ffn_hidden, activation)
        self.ls2 = LayerScale(embed_dim)

    def stages(self, x: Tokens, context: Any) -> dict[str, Tokens]:
        """Every intermediate result by its stage name, the last being `output`."""
        attn_in = self.norm1(x)
        query, key, value = self.attn.project(attn_in, context)
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

    def __call__(self, x: Tokens, context: Any) -> Tokens:
        return self.stages(x, context)["output"]


class VisionTransformer(eqx.Module):
    """Blocks and a final norm; what comes before is the family's own. See `nn.model.Model`."""

    cls_token: eqx.AbstractVar[Float[Array, "1 1 embed_dim"]]
    register_tokens: eqx.AbstractVar[Float[Array, "1 registers embed_dim"] | None]
    blocks: eqx.AbstractVar[tuple[Block, ...]]
    norm: eqx.AbstractVar[LayerNorm]

    @abstractmethod
    def embed(self, pixel_values: Array) -> tuple[Tokens, Any]:
        """The tokens that enter the first block, and its context."""

    @abstractmethod
    def natively(self, tensors: Mapping[str, Any]) -> "tuple[VisionTransformer, Mapping[str, Any]] | None":
        """Model and parameters as references are installed, if they differ by design."""

    @property
    def prefix(self) -> list[Float[Array, "1 _ embed_dim"]]:
        """CLS, and registers if there are any."""
        return [self.cls_token, *([] if self.register_tokens is None else [self.register_tokens])]

    def trunk(self) -> list[tuple[str, Block]]:
        """The blocks in order, each with its path in the tree: `x = layer(x, context)`."""
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


def tokens_of(prefix: list[Float[Array, "1 _ embed_dim"]], patches: Patches) -> Tokens:
    """The prefix, the same for every image, and then the patches row by row."""
    return jax.lax.concatenate([*(for_every_image(x, patches) for x in prefix), flatten_grid(patches)], 1)
