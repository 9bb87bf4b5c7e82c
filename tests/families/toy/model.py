"""A toy in JAX: a CLS token and patches, and blocks that look at every token by itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit2onnx.families.toy.architecture import Architecture
from vit2onnx.nn.layers import LayerNorm, Mlp, PatchEmbed
from vit2onnx.nn.model import ImageModel

EPS = 1e-5
Tokens = Float[Array, "batch tokens embed_dim"]


class Block(eqx.Module):
    norm: LayerNorm
    mlp: Mlp

    def __init__(self, arch: Architecture):
        self.norm = LayerNorm(arch.embed_dim, EPS)
        self.mlp = Mlp(arch.embed_dim, 2 * arch.embed_dim)

    def stages(self, x: Tokens, _: None) -> dict[str, Tokens]:
        mlp_in = self.norm(x)
        mlp_raw = self.mlp(mlp_in)
        return {"input": x, "mlp_in": mlp_in, "mlp_raw": mlp_raw, "output": x + mlp_raw}

    def __call__(self, x: Tokens, context: None) -> Tokens:
        return self.stages(x, context)["output"]


class Model(ImageModel):
    patch_embed: PatchEmbed
    cls_token: Float[Array, "1 1 embed_dim"]
    blocks: tuple[Block, ...]
    norm: LayerNorm

    def __init__(self, arch: Architecture):
        self.patch_embed = PatchEmbed(arch.embed_dim, arch.patch_size)
        self.cls_token = jnp.zeros((1, 1, arch.embed_dim))
        self.blocks = tuple(Block(arch) for _ in range(arch.depth))
        self.norm = LayerNorm(arch.embed_dim, EPS)

    def embed(self, pixel_values: Float[Array, "batch 3 height width"]) -> tuple[Tokens, None]:
        patches = self.patch_embed(pixel_values)
        batch, grid_height, grid_width, embed_dim = patches.shape
        prefix = jnp.broadcast_to(self.cls_token, (batch, 1, embed_dim))
        return jax.lax.concatenate([prefix, patches.reshape(batch, grid_height * grid_width, embed_dim)], 1), None

    def trunk(self) -> list[tuple[str, Block]]:
        return [(f"blocks.{index}", block) for index, block in enumerate(self.blocks)]

    def head_stages(self, tokens: Tokens, _: None) -> dict[str, Tokens]:
        return {"norm": self.norm(tokens)}
