"""The archive's weights for the example vision transformer that jax2onnx ships."""

import equinox as eqx
import jax
from jax2onnx.plugins.examples.eqx.dino import VisionTransformer

from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_vit.architecture import Architecture
from vit2onnx.families.dinov3_vit.layouts import model_table
from vit2onnx.families.vit_layouts import BLOCK, same
from vit2onnx.weights.keytable import ADD_FIRST_AXIS, Entry, KeyTable, part_of

_THIRDS = {name: part_of(f"take_{name}", index) for index, name in enumerate(("query", "key", "value"))}

ENTRIES = (
    *same("patch_embed.proj", "patch_embed.proj"),
    Entry("cls_token", ("cls_token",), ADD_FIRST_AXIS),
    Entry("storage_tokens", ("reg_tokens",), ADD_FIRST_AXIS),
    Entry("dino_rope.periods", ("local_pos_embed.patch_rope.freqs",)),
    *same("blocks.{i}.norm1", f"{BLOCK}.prenorm"),
    *(
        Entry(f"blocks.{{i}}.attn.core.attn.{name}_proj.{leaf}", (f"{BLOCK}.attn.qkv.{leaf}",), transform)
        for name, transform in _THIRDS.items()
        for leaf in ("weight", "bias")
    ),
    *same("blocks.{i}.attn.core.attn.output_proj", f"{BLOCK}.attn.proj"),
    *same("blocks.{i}.norm2", f"{BLOCK}.norm"),
    *same("blocks.{i}.mlp.fc1", f"{BLOCK}.mlp.fc1"),
    *same("blocks.{i}.mlp.fc2", f"{BLOCK}.mlp.fc2"),
    Entry("blocks.{i}.ls1.gamma", (f"{BLOCK}.ls1.gamma",)),
    Entry("blocks.{i}.ls2.gamma", (f"{BLOCK}.ls2.gamma",)),
    *same("norm", "norm"),
)


def table(arch: Architecture) -> KeyTable:
    """From the archive's tree to that of the example class, which has no place for what our model has none for."""
    return KeyTable("archive", ENTRIES, model_table(arch).ignored)


def skeleton(arch: Architecture) -> eqx.Module:
    """The example vision transformer that jax2onnx ships, with a shape in place of every array.

    Raises `InputError` for an architecture that it does not have.
    """
    held = ("mlp", 4 * arch.embed_dim, "gelu", True)
    if (arch.ffn, arch.ffn_hidden, arch.act, arch.qkv_bias) != held or not arch.num_registers:
        raise InputError(
            "jax2onnx's example class is a vision transformer with GELU, registers, a bias in attention and an MLP four"
            " times as wide as its tokens; this variant is not, so use its model.eqx."
        )
    return eqx.filter_eval_shape(
        lambda: VisionTransformer(
            img_size=224,
            patch_size=arch.patch_size,
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            num_storage_tokens=arch.num_registers,
            key=jax.random.PRNGKey(0),
        )
    )
