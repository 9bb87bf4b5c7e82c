"""From the archive's tree to the trees of inference models, as key tables."""

from collections.abc import Iterable, Iterator

import equinox as eqx
import numpy as np

from vit2onnx.errors import InternalError
from vit2onnx.families.models import build
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import array_shapes
from vit2onnx.weights.keytable import (
    ADD_FIRST_AXIS,
    DROP_PIXEL_AXES,
    TRANSPOSE,
    Assignment,
    Entry,
    KeyTable,
    assign,
    value_of,
)

BLOCK = "blocks.0.blocks.{i}"


def _linear(target: str, source: str) -> tuple[Entry, Entry]:
    """A linear layer: Equimo stores [out, in], the export model [in, out]."""
    return Entry(f"{target}.weight", (f"{source}.weight",), TRANSPOSE), Entry(f"{target}.bias", (f"{source}.bias",))


def same(target: str, source: str, *leaves: str) -> tuple[Entry, ...]:
    """Lines for leaves that are the same on both sides."""
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
            *same("blocks.{i}.norm1", f"{BLOCK}.prenorm", "weight", "bias"),
            *_linear("blocks.{i}.attn.qkv", f"{BLOCK}.attn.qkv"),
            *_linear("blocks.{i}.attn.proj", f"{BLOCK}.attn.proj"),
            *same("blocks.{i}.ls1", f"{BLOCK}.ls1", "gamma"),
            *same("blocks.{i}.norm2", f"{BLOCK}.norm", "weight", "bias"),
            *_linear("blocks.{i}.mlp.fc1", f"{BLOCK}.mlp.fc1"),
            *_linear("blocks.{i}.mlp.fc2", f"{BLOCK}.mlp.fc2"),
            *_linear("blocks.{i}.mlp.w1", f"{BLOCK}.mlp.w1"),
            *_linear("blocks.{i}.mlp.w2", f"{BLOCK}.mlp.w2"),
            *_linear("blocks.{i}.mlp.w3", f"{BLOCK}.mlp.w3"),
            *same("blocks.{i}.ls2", f"{BLOCK}.ls2", "gamma"),
            *same("norm", "norm", "weight", "bias"),
        ),
    ),
    # The archive has this tree already.
    "dinov3_convnext": KeyTable("archive", (Entry("{path}", ("{path}",)),)),
}
# Equimo has a place for them, no inference model has.
TRAINING_ONLY = ("mask_token", "local_cls_norm.weight", "local_cls_norm.bias")


def map_archive(
    table: KeyTable, skeleton: eqx.Module, archive: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every array leaf of the skeleton with its value, in the order in which the archive gives their sources.

    Raises `InternalError` if the archive does not hold exactly what the leaves need, since its reader has compared it
    with the architecture.
    """
    by_source: dict[str, list[Assignment]] = {}
    for assignment in assign(table, array_shapes(skeleton)):
        (source,) = assignment.sources
        by_source.setdefault(source, []).append(assignment)
    for name, array in archive:
        if name not in by_source and name not in TRAINING_ONLY:
            raise InternalError(f"the archive holds {name}, which no leaf needs")
        for assignment in by_source.pop(name, []):
            (expected,) = assignment.transform.shapes(assignment.shape)
            if array.shape != expected:
                raise InternalError(f"{name} is {array.shape} instead of {expected}")
            yield assignment.target, value_of(assignment, [array])
    if by_source:
        raise InternalError(f"the archive lacks {list(by_source)}, which the model needs")


def map_model(spec: VariantSpec, archive: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of the inference model of a variant."""
    return map_archive(MODEL_TABLES[spec.family], build(spec.family, spec.architecture), archive)
