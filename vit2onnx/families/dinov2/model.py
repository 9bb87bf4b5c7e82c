"""DINOv2 as an inference model.

Written from the papers (arXiv:2304.07193, arXiv:2309.16588) and from facts about the published checkpoints. Tokens are
ordered CLS, registers, patches row by row.
"""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit2onnx.families.dinov2.architecture import Architecture
from vit2onnx.nn.layers import LayerNorm, PatchEmbed
from vit2onnx.nn.packing import Context, Places
from vit2onnx.nn.positions import Positions
from vit2onnx.nn.transformer import Attention, Block, Tokens, VisionTransformer, tokens_of
from vit2onnx.weights.keytable import LazyTensor


class Model(VisionTransformer):
    """A DINOv2: `model(pixel_values)` gives normed features for images of any size.

    Patches get their `positions`; that of CLS is part of `cls_token`, and registers have none.
    """

    patch_embed: PatchEmbed
    cls_token: Float[Array, "1 1 embed_dim"]
    register_tokens: Float[Array, "1 registers embed_dim"] | None
    positions: Positions
    blocks: tuple[Block, ...]
    norm: LayerNorm

    def __init__(self, arch: Architecture):
        self.patch_embed = PatchEmbed(arch.embed_dim, arch.patch_size)
        self.cls_token = jnp.zeros((1, 1, arch.embed_dim))
        registers = 1, arch.num_registers, arch.embed_dim
        self.register_tokens = jnp.zeros(registers) if arch.num_registers else None
        table = jnp.zeros((arch.position_grid, arch.position_grid, arch.embed_dim))
        self.positions = Positions(table, arch.position_antialias, arch.position_offset)
        size = arch.embed_dim, arch.ffn, arch.ffn_hidden, arch.act, arch.norm_eps
        self.blocks = tuple(
            Block(Attention(arch.embed_dim, arch.num_heads, bias=True, key_bias=True), *size) for _ in range(arch.depth)
        )
        self.norm = LayerNorm(arch.embed_dim, arch.norm_eps)

    def embed(self, pixel_values: Float[Array, "batch 3 height width"]) -> tuple[Tokens, Context]:
        """The tokens that enter the first block."""
        patches = self.positions(self.patch_embed(pixel_values))
        return tokens_of(self.prefix, patches), Context()

    def place(
        self, patches: Float[Array, "patches embed_dim"], places: Places
    ) -> tuple[Float[Array, "patches embed_dim"], None]:
        """Patches of packed images with their positions; none is rotated."""
        return self.positions.of_places(patches, places), None

    def natively(self, tensors: Mapping[str, LazyTensor]) -> tuple["Model", Mapping[str, LazyTensor]] | None:
        """With the table resized as transformers resizes it; nothing if that is the same."""
        ours, antialias = self.positions, self.register_tokens is not None
        if (ours.antialias, ours.offset) == (antialias, 0.0):
            return None
        positions = eqx.filter_eval_shape(lambda: Positions(jnp.zeros(ours.table.shape), antialias, 0.0))
        return eqx.tree_at(lambda model: model.positions, self, positions), tensors
