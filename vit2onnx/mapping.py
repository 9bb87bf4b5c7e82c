"""From the archive's tree to the trees of inference models, as key tables."""

from collections.abc import Iterator, Mapping

import equinox as eqx
import jax
import numpy as np

from vit2onnx.archive import array_shapes
from vit2onnx.keytable import (
    ADD_FIRST_AXIS,
    COPY,
    DROP_PIXEL_AXES,
    TRANSPOSE,
    Entry,
    KeyTable,
    LazyTensor,
    assign,
    check,
    third,
    value_of,
)
from vit2onnx.models import build
from vit2onnx.variants import VariantSpec, ViTArchitecture

BLOCK = "blocks.0.blocks.{i}"


def _linear(target: str, source: str) -> tuple[Entry, Entry]:
    """A linear layer: Equimo stores [out, in], the export model [in, out]."""
    return Entry(f"{target}.weight", (f"{source}.weight",), TRANSPOSE), Entry(f"{target}.bias", (f"{source}.bias",))


def _same(target: str, source: str, *leaves: str) -> tuple[Entry, ...]:
    return tuple(Entry(f"{target}.{leaf}", (f"{source}.{leaf}",)) for leaf in leaves)


MODEL_TABLES = {
    "dinov3_vit": KeyTable(
        "archive",
        entries=(
            Entry("patch_embed.weight", ("patch_embed.proj.weight",)),
            Entry("patch_embed.bias", ("patch_embed.proj.bias",), DROP_PIXEL_AXES),
            Entry("cls_token", ("cls_token",), ADD_FIRST_AXIS),
            Entry("register_tokens", ("reg_tokens",), ADD_FIRST_AXIS),
            Entry("rope_periods", ("local_pos_embed.patch_rope.freqs",)),
            *_same("blocks.{i}.norm1", f"{BLOCK}.prenorm", "weight", "bias"),
            *_linear("blocks.{i}.attn.qkv", f"{BLOCK}.attn.qkv"),
            *_linear("blocks.{i}.attn.proj", f"{BLOCK}.attn.proj"),
            *_same("blocks.{i}.ls1", f"{BLOCK}.ls1", "gamma"),
            *_same("blocks.{i}.norm2", f"{BLOCK}.norm", "weight", "bias"),
            *_linear("blocks.{i}.mlp.fc1", f"{BLOCK}.mlp.fc1"),
            *_linear("blocks.{i}.mlp.fc2", f"{BLOCK}.mlp.fc2"),
            *_linear("blocks.{i}.mlp.w1", f"{BLOCK}.mlp.w1"),
            *_linear("blocks.{i}.mlp.w2", f"{BLOCK}.mlp.w2"),
            *_linear("blocks.{i}.mlp.w3", f"{BLOCK}.mlp.w3"),
            *_same("blocks.{i}.ls2", f"{BLOCK}.ls2", "gamma"),
            *_same("norm", "norm", "weight", "bias"),
        ),
    ),
    # The archive has this tree already.
    "dinov3_convnext": KeyTable("archive", (Entry("{path}", ("{path}",)),)),
}
# Equimo has a place for them, no inference model has.
TRAINING_ONLY = ("mask_token", "local_cls_norm.weight", "local_cls_norm.bias")

_THIRDS = {name: third(f"take_{name}", index) for index, name in enumerate(("query", "key", "value"))}

JAX2ONNX_EXAMPLE_TABLE = KeyTable(
    "archive",
    entries=(
        *_same("patch_embed.proj", "patch_embed.proj", "weight", "bias"),
        Entry("cls_token", ("cls_token",), ADD_FIRST_AXIS),
        Entry("storage_tokens", ("reg_tokens",), ADD_FIRST_AXIS),
        Entry("dino_rope.periods", ("local_pos_embed.patch_rope.freqs",), COPY),
        *_same("blocks.{i}.norm1", f"{BLOCK}.prenorm", "weight", "bias"),
        *(
            Entry(f"blocks.{{i}}.attn.core.attn.{name}_proj.{leaf}", (f"{BLOCK}.attn.qkv.{leaf}",), transform)
            for name, transform in _THIRDS.items()
            for leaf in ("weight", "bias")
        ),
        *_same("blocks.{i}.attn.core.attn.output_proj", f"{BLOCK}.attn.proj", "weight", "bias"),
        *_same("blocks.{i}.norm2", f"{BLOCK}.norm", "weight", "bias"),
        *_same("blocks.{i}.mlp.fc1", f"{BLOCK}.mlp.fc1", "weight", "bias"),
        *_same("blocks.{i}.mlp.fc2", f"{BLOCK}.mlp.fc2", "weight", "bias"),
        *_same("blocks.{i}.ls1", f"{BLOCK}.ls1", "gamma"),
        *_same("blocks.{i}.ls2", f"{BLOCK}.ls2", "gamma"),
        *_same("norm", "norm", "weight", "bias"),
    ),
)


def jax2onnx_example_skeleton(arch: ViTArchitecture) -> eqx.Module:
    """The example vision transformer that jax2onnx ships, with a shape in place of every array."""
    from jax2onnx.plugins.examples.eqx.dino import VisionTransformer

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


def map_archive(
    table: KeyTable, skeleton: eqx.Module, archive: Mapping[str, LazyTensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every array leaf of the skeleton with its value from the archive, one at a time."""
    assignments = assign(table, array_shapes(skeleton))
    needed = {name: tensor for name, tensor in archive.items() if name not in TRAINING_ONLY}
    check("the archive", table, assignments, needed)
    for assignment in assignments:
        yield (
            assignment.target,
            value_of(assignment, [archive[key].read() for key in assignment.sources]),
        )


def map_model(spec: VariantSpec, archive: Mapping[str, LazyTensor]) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of the inference model of a variant."""
    skeleton = build(spec.family, spec.architecture)
    return map_archive(MODEL_TABLES[spec.family], skeleton, archive)
