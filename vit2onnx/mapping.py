"""From the archive's tree to the trees of inference models, as key tables."""

from collections.abc import Iterable, Iterator

import equinox as eqx
import jax
import numpy as np

from vit2onnx.archive import array_shapes
from vit2onnx.errors import InputError
from vit2onnx.keytable import (
    ADD_FIRST_AXIS,
    COPY,
    DROP_PIXEL_AXES,
    TRANSPOSE,
    Assignment,
    Entry,
    KeyTable,
    assign,
    third,
    value_of,
)
from vit2onnx.models import build
from vit2onnx.variants import Architecture, VariantSpec, ViTArchitecture

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


def jax2onnx_example_skeleton(arch: Architecture) -> eqx.Module:
    """The example vision transformer that jax2onnx ships, with a shape in place of every array.

    Raises `InputError` for an architecture that it does not have.
    """
    held = ("mlp", 4 * arch.embed_dim, True)
    if not isinstance(arch, ViTArchitecture) or (arch.ffn, arch.ffn_hidden, arch.qkv_bias) != held:
        raise InputError(
            "jax2onnx's example class is a vision transformer with a bias in attention and an MLP four times as wide as"
            " its tokens; this variant is not, so use its model.eqx."
        )
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
    table: KeyTable, skeleton: eqx.Module, archive: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every array leaf of the skeleton with its value, in the order in which the archive gives their sources."""
    by_source: dict[str, list[Assignment]] = {}
    for assignment in assign(table, array_shapes(skeleton)):
        (source,) = assignment.sources
        by_source.setdefault(source, []).append(assignment)
    for name, array in archive:
        assert name in by_source or name in TRAINING_ONLY, f"the archive holds {name}, which no leaf needs"
        for assignment in by_source.pop(name, []):
            (expected,) = assignment.transform.shapes(assignment.shape)
            assert array.shape == expected, f"{name} is {array.shape} instead of {expected}"
            yield assignment.target, value_of(assignment, [array])
    assert not by_source, f"the archive lacks {list(by_source)}"


def map_model(spec: VariantSpec, archive: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of the inference model of a variant."""
    return map_archive(MODEL_TABLES[spec.family], build(spec.family, spec.architecture), archive)
