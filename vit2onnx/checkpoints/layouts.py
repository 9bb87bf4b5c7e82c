"""The layouts in which checkpoints are published: one key table per family and layout.

Targets are the leaves of the Equinox archive, which follows Equimo's `VisionTransformer`.
"""

from collections.abc import Iterable

import ml_dtypes
import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.keytable import (
    ADD_PIXEL_AXES,
    DROP_FIRST_AXIS,
    FUSE_QKV,
    FUSE_QV,
    Entry,
    KeyTable,
    Shape,
    Transform,
)

ROPE_BASE = 100.0


def released_rope_periods(count: int) -> np.ndarray:
    """The RoPE periods that DINOv3 was released with, float32 [count].

    100^(k / count), rounded to bfloat16, because the models were trained with the table in that precision.
    """
    periods = ROPE_BASE ** (np.arange(count, dtype=np.float64) / count)
    return periods.astype(ml_dtypes.bfloat16).astype(np.float32)


def mask_invert(value: np.ndarray) -> list[np.ndarray]:
    """The fused bias and the mask that removes its key part."""
    mask = np.ones_like(value)
    mask[len(value) // 3 : 2 * len(value) // 3] = 0
    return [value, mask]


MASK_KEY_BIAS = Transform(
    "multiply_by_mask",
    shapes=lambda target: (target, target),
    # Not bias * mask alone, because it turns a negative bias into minus zero, which no other layout holds.
    apply=lambda sources, target: np.where(sources[1] == 0, np.float32(0), sources[0] * sources[1]),
    invert=mask_invert,
)


def _restored_periods(sources: list[np.ndarray], target: Shape) -> np.ndarray:
    return released_rope_periods(target[0])


RESTORE_ROPE_PERIODS = Transform(
    "restored: 100^(k/count) rounded to bfloat16, as released",
    shapes=lambda target: (),
    apply=_restored_periods,
    invert=lambda value: [],
)

BLOCK = "blocks.0.blocks.{i}"

DINOV3_VIT_META = KeyTable(
    "meta",
    entries=(
        Entry("patch_embed.proj.weight", ("patch_embed.proj.weight",)),
        Entry("patch_embed.proj.bias", ("patch_embed.proj.bias",), ADD_PIXEL_AXES),
        Entry("local_pos_embed.patch_rope.freqs", ("rope_embed.periods",)),
        Entry("cls_token", ("cls_token",), DROP_FIRST_AXIS),
        Entry("reg_tokens", ("storage_tokens",), DROP_FIRST_AXIS),
        Entry("mask_token", ("mask_token",)),
        Entry(f"{BLOCK}.prenorm.weight", ("blocks.{i}.norm1.weight",)),
        Entry(f"{BLOCK}.prenorm.bias", ("blocks.{i}.norm1.bias",)),
        Entry(f"{BLOCK}.norm.weight", ("blocks.{i}.norm2.weight",)),
        Entry(f"{BLOCK}.norm.bias", ("blocks.{i}.norm2.bias",)),
        Entry(f"{BLOCK}.ls1.gamma", ("blocks.{i}.ls1.gamma",)),
        Entry(f"{BLOCK}.ls2.gamma", ("blocks.{i}.ls2.gamma",)),
        Entry(f"{BLOCK}.attn.qkv.weight", ("blocks.{i}.attn.qkv.weight",)),
        Entry(
            f"{BLOCK}.attn.qkv.bias",
            ("blocks.{i}.attn.qkv.bias", "blocks.{i}.attn.qkv.bias_mask"),
            MASK_KEY_BIAS,
        ),
        Entry(f"{BLOCK}.attn.proj.weight", ("blocks.{i}.attn.proj.weight",)),
        Entry(f"{BLOCK}.attn.proj.bias", ("blocks.{i}.attn.proj.bias",)),
        Entry(f"{BLOCK}.mlp.fc1.weight", ("blocks.{i}.mlp.fc1.weight",)),
        Entry(f"{BLOCK}.mlp.fc1.bias", ("blocks.{i}.mlp.fc1.bias",)),
        Entry(f"{BLOCK}.mlp.fc2.weight", ("blocks.{i}.mlp.fc2.weight",)),
        Entry(f"{BLOCK}.mlp.fc2.bias", ("blocks.{i}.mlp.fc2.bias",)),
        Entry("norm.weight", ("norm.weight",)),
        Entry("norm.bias", ("norm.bias",)),
    ),
)


def _huggingface(layout: str, layer: str) -> KeyTable:
    """Hugging Face's names; `layer` is what stands before a block's own names."""
    qkv = ("q_proj", "k_proj", "v_proj")
    return KeyTable(
        layout,
        entries=(
            Entry("patch_embed.proj.weight", ("embeddings.patch_embeddings.weight",)),
            Entry("patch_embed.proj.bias", ("embeddings.patch_embeddings.bias",), ADD_PIXEL_AXES),
            Entry("local_pos_embed.patch_rope.freqs", (), RESTORE_ROPE_PERIODS),
            Entry("cls_token", ("embeddings.cls_token",), DROP_FIRST_AXIS),
            Entry("reg_tokens", ("embeddings.register_tokens",), DROP_FIRST_AXIS),
            Entry("mask_token", ("embeddings.mask_token",), DROP_FIRST_AXIS),
            Entry(f"{BLOCK}.prenorm.weight", (f"{layer}.norm1.weight",)),
            Entry(f"{BLOCK}.prenorm.bias", (f"{layer}.norm1.bias",)),
            Entry(f"{BLOCK}.norm.weight", (f"{layer}.norm2.weight",)),
            Entry(f"{BLOCK}.norm.bias", (f"{layer}.norm2.bias",)),
            Entry(f"{BLOCK}.ls1.gamma", (f"{layer}.layer_scale1.lambda1",)),
            Entry(f"{BLOCK}.ls2.gamma", (f"{layer}.layer_scale2.lambda1",)),
            Entry(f"{BLOCK}.attn.qkv.weight", tuple(f"{layer}.attention.{p}.weight" for p in qkv), FUSE_QKV),
            Entry(f"{BLOCK}.attn.qkv.bias", tuple(f"{layer}.attention.{p}.bias" for p in qkv[::2]), FUSE_QV),
            Entry(f"{BLOCK}.attn.proj.weight", (f"{layer}.attention.o_proj.weight",)),
            Entry(f"{BLOCK}.attn.proj.bias", (f"{layer}.attention.o_proj.bias",)),
            Entry(f"{BLOCK}.mlp.fc1.weight", (f"{layer}.mlp.up_proj.weight",)),
            Entry(f"{BLOCK}.mlp.fc1.bias", (f"{layer}.mlp.up_proj.bias",)),
            Entry(f"{BLOCK}.mlp.fc2.weight", (f"{layer}.mlp.down_proj.weight",)),
            Entry(f"{BLOCK}.mlp.fc2.bias", (f"{layer}.mlp.down_proj.bias",)),
            Entry("norm.weight", ("norm.weight",)),
            Entry("norm.bias", ("norm.bias",)),
        ),
    )


LAYOUTS: dict[str, tuple[KeyTable, ...]] = {
    "dinov3_vit": (
        DINOV3_VIT_META,
        _huggingface("huggingface", "layer.{i}"),
        _huggingface("huggingface5", "model.layer.{i}"),
    ),
}


def detect(name: str, family: str, keys: Iterable[str]) -> KeyTable:
    """The layout whose names fit most of the keys.

    Raises `InputError`, naming `name`, if none fits even one key in three.
    """
    keys = list(keys)
    tables = LAYOUTS[family]
    known = {table.layout: sum(bool(table.source_pattern().fullmatch(k)) for k in keys) for table in tables}
    best = max(tables, key=lambda table: known[table.layout])
    if 3 * known[best.layout] < max(len(keys), 1):
        raise InputError(
            f"{name} holds no {family} checkpoint in a known layout ({', '.join(known)}): its {len(keys)} tensors"
            f" are named like {', '.join(keys[:3]) or 'nothing'}; give the file as its publisher offers it."
        )
    return best


def table_of(family: str, layout: str) -> KeyTable:
    """The table of a layout by name."""
    return next(table for table in LAYOUTS[family] if table.layout == layout)
