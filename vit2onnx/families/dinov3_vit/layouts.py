"""DINOv3 ViT in the layouts of Meta, Hugging Face and timm; targets are the leaves of Equimo's model.

Two tensors are used in training only and not held by every layout: the mask token and the norm of local crops' CLS.
The archive holds their initial values whatever the file says, so that every layout gives the same archive; the ledger
has the file's own under "ignored".
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.families import vit_layouts
from vit2onnx.families.dinov3_vit.architecture import Architecture
from vit2onnx.families.vit_layouts import ACT_LAYERS, BLOCK, MASK_TOKEN, NO_MASK_TOKEN, same
from vit2onnx.nn.rope import rope_periods
from vit2onnx.weights.keytable import (
    ADD_FIRST_AXIS,
    ADD_PIXEL_AXES,
    COPY,
    DROP_FIRST_AXIS,
    DROP_PIXEL_AXES,
    FUSE_QKV,
    FUSE_QV,
    TRANSPOSE,
    Entry,
    Ignored,
    KeyTable,
    Shape,
    Transform,
    chained,
    part_of,
    restoring,
)

OTHER_PERIODS = "the variant asks for periods in another precision"
NO_REGISTERS = "empty"
LOCAL_CLS_NORM = "norms the CLS token of local crops in training only"
TRAINING_ONLY = (
    NO_MASK_TOKEN,
    Entry("local_cls_norm.weight", (), restoring("ones, as before training", partial(np.ones, dtype=np.float32))),
    Entry("local_cls_norm.bias", (), restoring("zeros, as before training", partial(np.zeros, dtype=np.float32))),
)


PERIODS = "local_pos_embed.patch_rope.freqs"


def _restored_periods(arch: Architecture) -> Entry:
    precision, theta = arch.rope_periods, arch.rope_theta
    as_released = ", as released" if (precision, theta) == ("bfloat16", 100.0) else ""
    what = f"{theta:g}^(k/count) in {precision}{as_released}"
    return Entry(PERIODS, (), restoring(what, lambda shape: rope_periods(shape[0], precision, theta)))


def _periods_of_file(arch: Architecture) -> Entry:
    """The file's own, which are in bfloat16 in a synthetic file."""
    periods = replace(COPY, invert=lambda value: [rope_periods(len(value), "bfloat16", arch.rope_theta)])
    return Entry(PERIODS, ("rope_embed.periods",), periods)


def _mask(sources: list[np.ndarray], target: Shape) -> np.ndarray:
    bias, mask = sources
    # Not the product alone, because it turns a negative bias into minus zero, which no other layout holds.
    return np.where(mask == 0, np.float32(0), bias * mask)


def _unmask(value: np.ndarray) -> list[np.ndarray]:
    mask = np.ones_like(value)
    mask[len(value) // 3 : 2 * len(value) // 3] = 0
    return [value, mask]


def _fill_masked(sources: list[np.ndarray], noise: np.ndarray) -> None:
    bias, mask = sources
    bias[mask == 0] = noise[mask == 0]


MASK_KEY_BIAS = Transform("multiply_by_mask", lambda target: (target, target), _mask, _unmask, _fill_masked)


def _renamed(
    patch_embed: str, cls: str, registers: str, block: str, scales: tuple[str, str], proj: str, mlp: tuple[str, ...]
) -> tuple[Entry, ...]:
    """The lines that differ between layouts in names only; the names from `scales` on are those within a block."""
    return (
        Entry("patch_embed.proj.weight", (f"{patch_embed}.weight",)),
        Entry("patch_embed.proj.bias", (f"{patch_embed}.bias",), ADD_PIXEL_AXES),
        Entry("cls_token", (cls,), DROP_FIRST_AXIS),
        Entry("reg_tokens", (registers,), DROP_FIRST_AXIS),
        *same(f"{BLOCK}.prenorm", f"{block}.norm1"),
        *same(f"{BLOCK}.norm", f"{block}.norm2"),
        *(Entry(f"{BLOCK}.ls{i}.gamma", (f"{block}.{name}",)) for i, name in enumerate(scales, start=1)),
        *same(f"{BLOCK}.attn.proj", f"{block}.{proj}"),
        *(
            entry
            for ours, theirs in zip(("fc1", "fc2", "w1", "w2", "w3"), mlp, strict=True)
            for entry in same(f"{BLOCK}.mlp.{ours}", f"{block}.mlp.{theirs}")
        ),
        *same("norm", "norm"),
        *TRAINING_ONLY,
    )


def meta(arch: Architecture) -> KeyTable:
    """The publisher's own files."""
    block = "blocks.{i}"
    names = "patch_embed.proj", "cls_token", "storage_tokens", block
    mlp = "fc1", "fc2", "w1", "w2", "w3"
    qkv = f"{block}.attn.qkv"
    is_computed = arch.rope_periods == "float32"
    masked = Entry(f"{BLOCK}.attn.qkv.bias", (f"{qkv}.bias", f"{qkv}.bias_mask"), MASK_KEY_BIAS)
    bias = Entry(f"{BLOCK}.attn.qkv.bias", (f"{qkv}.bias",)) if arch.key_bias else masked
    return KeyTable(
        "meta",
        entries=(
            *_renamed(*names, ("ls1.gamma", "ls2.gamma"), "attn.proj", mlp),
            Entry(f"{BLOCK}.attn.qkv.weight", (f"{qkv}.weight",)),
            bias,
            _restored_periods(arch) if is_computed else _periods_of_file(arch),
        ),
        ignored={
            "mask_token": Ignored(MASK_TOKEN, (1, arch.embed_dim)),
            # Required, because without it the file is another release of this architecture.
            **(
                {
                    f"local_cls_norm.{leaf}": Ignored(LOCAL_CLS_NORM, (arch.embed_dim,), required=True)
                    for leaf in ("weight", "bias")
                }
                if arch.local_cls_norm
                else {}
            ),
            **({"rope_embed.periods": Ignored(OTHER_PERIODS, (arch.head_dim // 4,))} if is_computed else {}),
        },
    )


def huggingface(arch: Architecture, layout: str, block: str) -> KeyTable:
    """Hugging Face's files; `block` is what stands before a block's own names."""
    scales = "layer_scale1.lambda1", "layer_scale2.lambda1"
    mlp = "up_proj", "down_proj", "gate_proj", "up_proj", "down_proj"
    attention = f"{block}.attention"
    biases, fuse = ("qkv", FUSE_QKV) if arch.key_bias else ("qv", FUSE_QV)
    registers = "embeddings.register_tokens"
    names = "embeddings.patch_embeddings", "embeddings.cls_token", registers, block
    no_registers = {} if arch.num_registers else {registers: Ignored(NO_REGISTERS, (1, 0, arch.embed_dim))}
    return KeyTable(
        layout,
        entries=(
            *_renamed(*names, scales, "attention.o_proj", mlp),
            Entry(f"{BLOCK}.attn.qkv.weight", tuple(f"{attention}.{p}_proj.weight" for p in "qkv"), FUSE_QKV),
            Entry(f"{BLOCK}.attn.qkv.bias", tuple(f"{attention}.{p}_proj.bias" for p in biases), fuse),
            _restored_periods(arch),
        ),
        ignored={"embeddings.mask_token": Ignored(MASK_TOKEN, (1, 1, arch.embed_dim)), **no_registers},
    )


def timm(arch: Architecture, layout: str, qkv_bias: Entry) -> KeyTable:
    """The files of timm's `eva` models; `qkv_bias` is how a file tells the bias of queries and values."""
    block = "blocks.{i}"
    names = "patch_embed.proj", "cls_token", "reg_token", block
    mlp = "fc1", "fc2", "fc1_g", "fc1_x", "fc2"
    return KeyTable(
        layout,
        entries=(
            *_renamed(*names, ("gamma_1", "gamma_2"), "attn.proj", mlp),
            Entry(f"{BLOCK}.attn.qkv.weight", (f"{block}.attn.qkv.weight",)),
            qkv_bias,
            _restored_periods(arch),
        ),
    )


NO_BIAS = Entry(
    f"{BLOCK}.attn.qkv.bias",
    (),
    restoring("zeros, which timm leaves out because the released ones are", partial(np.zeros, dtype=np.float32)),
)
QV_BIAS = Entry(f"{BLOCK}.attn.qkv.bias", ("blocks.{i}.attn.q_bias", "blocks.{i}.attn.v_bias"), FUSE_QV)


def tables(arch: Architecture) -> tuple[KeyTable, ...]:
    """All layouts that can hold an architecture: periods are in Meta's alone, a bias of keys in all but timm's."""
    found = [meta(arch)]
    if arch.rope_periods != "checkpoint":
        found += [
            huggingface(arch, "huggingface", "layer.{i}"),
            huggingface(arch, "huggingface5", "model.layer.{i}"),
        ]
        if not arch.key_bias:
            found += [timm(arch, "timm", NO_BIAS), timm(arch, "timm_qkvb", QV_BIAS)]
    return tuple(found)


def _thirds(target: str, source: str, *, key_bias: bool) -> Iterator[Entry]:
    """Queries, keys and values, which Equimo stores as one layer, as three."""
    for index, letter in enumerate("qkv"):
        part = part_of(f"take_{letter}", index)
        yield Entry(f"{target}.{letter}.weight", (f"{source}.weight",), chained(part, TRANSPOSE))
        if key_bias:
            yield Entry(f"{target}.{letter}.bias", (f"{source}.bias",), part)
        elif letter != "k":
            yield Entry(f"{target}.{letter}.bias", (f"{source}.bias",), _beside_zero_keys(part))


def _beside_zero_keys(part: Transform) -> Transform:
    """A part of a bias whose keys have none. Raises `InputError` where they have, which would be lost."""

    def apply(sources: list[np.ndarray], target: Shape) -> np.ndarray:
        if np.any(np.split(sources[0], 3)[1]):
            raise InputError(
                "The keys of this checkpoint have a bias, and its variant has none; set architecture.key_bias."
            )
        return part.apply(sources, target)

    return replace(part, name=f"{part.name}_beside_zero_keys", apply=apply)


def model_table(arch: Architecture) -> KeyTable:
    """From the archive's tree to the model's."""
    return KeyTable(
        "archive",
        entries=(
            Entry("patch_embed.weight", ("patch_embed.proj.weight",)),
            Entry("patch_embed.bias", ("patch_embed.proj.bias",), DROP_PIXEL_AXES),
            Entry("cls_token", ("cls_token",), ADD_FIRST_AXIS),
            Entry("register_tokens", ("reg_tokens",), ADD_FIRST_AXIS),
            Entry("rope_periods", (PERIODS,)),
            *same("blocks.{i}.norm1", f"{BLOCK}.prenorm"),
            *_thirds("blocks.{i}.attn", f"{BLOCK}.attn.qkv", key_bias=arch.key_bias),
            *same("blocks.{i}.attn.proj", f"{BLOCK}.attn.proj", TRANSPOSE),
            Entry("blocks.{i}.ls1.gamma", (f"{BLOCK}.ls1.gamma",)),
            *same("blocks.{i}.norm2", f"{BLOCK}.norm"),
            *same("blocks.{i}.mlp.fc1", f"{BLOCK}.mlp.fc1", TRANSPOSE),
            *same("blocks.{i}.mlp.fc2", f"{BLOCK}.mlp.fc2", TRANSPOSE),
            *same("blocks.{i}.mlp.w1", f"{BLOCK}.mlp.w1", TRANSPOSE),
            *same("blocks.{i}.mlp.w2", f"{BLOCK}.mlp.w2", TRANSPOSE),
            *same("blocks.{i}.mlp.w3", f"{BLOCK}.mlp.w3", TRANSPOSE),
            Entry("blocks.{i}.ls2.gamma", (f"{BLOCK}.ls2.gamma",)),
            *same("norm", "norm"),
        ),
        # Equimo has a place for them, our model has none.
        ignored={
            "mask_token": Ignored(MASK_TOKEN, (arch.embed_dim,)),
            **{f"local_cls_norm.{leaf}": Ignored(LOCAL_CLS_NORM, (arch.embed_dim,)) for leaf in ("weight", "bias")},
        },
    )


def archive_config(arch: Architecture) -> dict[str, Any]:
    """The arguments of Equimo's `VisionTransformer` for an architecture."""
    return {
        "img_size": 224,
        "in_channels": 3,
        "patch_size": arch.patch_size,
        "dim": arch.embed_dim,
        "num_heads": arch.num_heads,
        "depths": [arch.depth],
        # Equimo takes the width of a SwiGLU before it is cut to two thirds.
        "mlp_ratio": arch.ffn_hidden / arch.embed_dim * (1.5 if arch.ffn == "swiglu" else 1.0),
        "ffn_layer": arch.ffn,
        "untie_global_and_local_cls_norm": arch.local_cls_norm,
        "qkv_bias": arch.qkv_bias,
        "reg_tokens": arch.num_registers,
        "use_mask_token": True,
        "use_global_pos_embed": False,
        "use_local_pos_embed": True,
        "dynamic_img_size": True,
        "act_layer": ACT_LAYERS[arch.act],
        "init_values": 1e-5,
        "eps": arch.norm_eps,
        "num_classes": 0,
    }


def archive_skeleton(arch: Architecture) -> Any:
    """Equimo's model with a shape in place of every array."""
    return vit_layouts.archive_skeleton(archive_config(arch))


def synthetic_value(name: str, noise: np.ndarray) -> np.ndarray | None:
    """The value of an archive leaf that is made in another way than others, from noise of its shape; else `None`."""
    leaf = name.rpartition(".")[2]
    if leaf in ("freqs", "periods"):
        return rope_periods(len(noise), "bfloat16")
    # What enters the first norm is small, as in the releases, so that another epsilon shows there.
    if leaf in ("cls_token", "reg_tokens"):
        return 0.3 * noise
    if name.startswith("patch_embed."):
        return 0.3 * noise / np.float32(np.sqrt(np.prod(noise.shape[1:])) if leaf == "weight" else 1)
    return None
