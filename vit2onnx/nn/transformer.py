"""The vision transformer that families share: pre-norm blocks with LayerScale, and what is the same before and after.

Tokens are ordered CLS, registers, patches row by row.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int

from vit2onnx.errors import InternalError
from vit2onnx.nn.layers import LayerNorm, LayerScale, Linear, Mlp, PatchEmbed, SwiGlu
from vit2onnx.nn.model import ImageModel, Named, PackedFeatures
from vit2onnx.nn.packing import Context, Places, attention_within, features_of_pack, pack_of, packed_rope
from vit2onnx.nn.primitives import embedding, flatten_grid, for_every_image, residual

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

    def mix(self, query: Tokens, key: Tokens, value: Tokens, context: Any) -> Tokens:
        """Attention over all tokens of an image, then the output projection."""
        return self.proj(attention_within(query, key, value, context, num_heads=self.num_heads))


class Block(eqx.Module):
    """One pre-norm transformer block, with LayerScale or without. Its context goes to the attention as it is."""

    norm1: LayerNorm
    attn: Attention
    ls1: LayerScale | None
    norm2: LayerNorm
    mlp: Mlp | SwiGlu
    ls2: LayerScale | None

    def __init__(
        self,
        attn: Attention,
        embed_dim: int,
        ffn: str,
        ffn_hidden: int,
        activation: str,
        norm_eps: float,
        *,
        scaled: bool = True,
    ):
        self.norm1 = LayerNorm(embed_dim, norm_eps)
        self.attn = attn
        self.ls1 = LayerScale(embed_dim) if scaled else None
        self.norm2 = LayerNorm(embed_dim, norm_eps)
        self.mlp = (SwiGlu if ffn == "swiglu" else Mlp)(embed_dim, ffn_hidden, activation)
        self.ls2 = LayerScale(embed_dim) if scaled else None

    def stages(self, x: Tokens, context: Any) -> dict[str, Tokens]:
        """Every intermediate result by its stage name, the last being `output`."""
        attn_in = self.norm1(x)
        query, key, value = self.attn.project(attn_in, context)
        attn_raw = self.attn.mix(query, key, value, context)
        found = {"input": x, "attn_in": attn_in, "q": query, "k": key, "attn_raw": attn_raw}
        change = attn_raw
        if self.ls1:
            change = found["attn_scaled"] = self.ls1(attn_raw)
        post_attn = residual(x, change)
        mlp_in = self.norm2(post_attn)
        change = mlp_raw = self.mlp(mlp_in)
        found |= {"post_attn": post_attn, "mlp_in": mlp_in, "mlp_raw": mlp_raw}
        if self.ls2:
            change = found["mlp_scaled"] = self.ls2(mlp_raw)
        return {**found, "output": residual(post_attn, change)}

    def __call__(self, x: Tokens, context: Any) -> Tokens:
        return self.stages(x, context)["output"]


class VisionTransformer(ImageModel):
    """Blocks and a final norm; what comes before is the family's own. See `nn.model.Model`."""

    patch_embed: eqx.AbstractVar[PatchEmbed]
    cls_token: eqx.AbstractVar[Float[Array, "1 1 embed_dim"]]
    register_tokens: eqx.AbstractVar[Float[Array, "1 registers embed_dim"] | None]
    blocks: eqx.AbstractVar[tuple[Block, ...]]
    norm: eqx.AbstractVar[LayerNorm]

    @abstractmethod
    def embed(self, pixel_values: Array) -> tuple[Tokens, Context]:
        """The tokens that enter the first block, and its context."""

    @abstractmethod
    def place(
        self, patches: Float[Array, "patches embed_dim"], places: Places
    ) -> tuple[Float[Array, "patches embed_dim"], Float[Array, "patches half_head_dim"] | None]:
        """Patches of packed images with their positions, and the angles by which they are rotated, if they are."""

    @abstractmethod
    def natively(self, tensors: Mapping[str, Any]) -> "tuple[VisionTransformer, Mapping[str, Any]] | None":
        """Model and parameters as references are installed, if they differ by design."""

    def without_registers(self, tensors: Mapping[str, Any]) -> "tuple[VisionTransformer, Mapping[str, Any]] | None":
        """The same model whose only prefix is CLS; nothing if it has no registers."""
        if self.register_tokens is None:
            return None
        model = eqx.tree_at(lambda one: one.register_tokens, self, None)
        return model, {name: tensor for name, tensor in tensors.items() if name != "register_tokens"}

    @property
    def prefix(self) -> list[Float[Array, "1 _ embed_dim"]]:
        """CLS, and registers if there are any."""
        return [self.cls_token, *([] if self.register_tokens is None else [self.register_tokens])]

    def towers(self, interface: str) -> dict[str, Any]:
        """The model itself, or what it is for packed images."""
        return {"": PackedTower(self) if interface == "packed" else self}

    def trunk(self) -> list[tuple[str, Block]]:
        """The blocks in order, each with its path in the tree: `x = layer(x, context)`."""
        return [(f"blocks.{index}", block) for index, block in enumerate(self.blocks)]

    def head_stages(self, tokens: Tokens, _: Any) -> Named:
        """The norm of the last block's tokens."""
        return {"norm": self.norm(tokens)}


class PackedTower(eqx.Module):
    """A vision transformer that takes the patches of many images at once. See `nn.model.Tower`."""

    inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "grid_thw")
    embedded: ClassVar[str] = "patch_embed"
    model: VisionTransformer

    @property
    def norm(self) -> LayerNorm:
        """The final norm."""
        return self.model.norm

    def embed(
        self, pixel_values: Float[Array, "patches values"], grid_thw: Int[Array, "images 3"]
    ) -> tuple[Float[Array, "1 tokens embed_dim"], Context]:
        """The tokens that enter the first block, and their context."""
        prefix = self.model.prefix
        count = sum(x.shape[1] for x in prefix)
        pack, places, source = pack_of(pixel_values, grid_thw, count)
        patches, angles = self.model.place(self.model.patch_embed.of_patches(pixel_values), places)
        rows = [*(x.reshape(x.shape[1:]) for x in prefix), patches]
        tokens = embedding(jax.lax.concatenate(rows, 0), source)
        return tokens, Context(() if angles is None else packed_rope(angles, source, count), pack)

    def trunk(self) -> list[tuple[str, Block]]:
        """The blocks in order, each with its path in the tree."""
        return self.model.trunk()

    def head_stages(self, tokens: Tokens, context: Context) -> Named:
        """The norm of the last block's tokens."""
        return self.model.head_stages(tokens, context)

    def features(self, stages: Named, context: Context) -> PackedFeatures:
        """Features of patches and images, from the stages of the head."""
        if context.pack is None:
            raise InternalError("these tokens are of no pack")
        return features_of_pack(stages["norm"], context.pack)


def tokens_of(prefix: list[Float[Array, "1 _ embed_dim"]], patches: Patches) -> Tokens:
    """The prefix, the same for every image, and then the patches row by row."""
    return jax.lax.concatenate([*(for_every_image(x, patches) for x in prefix), flatten_grid(patches)], 1)
