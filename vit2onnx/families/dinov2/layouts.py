"""DINOv2 in the layouts of Meta, Hugging Face and timm; targets are the leaves of Equimo's model.

timm's files of models with registers hold the CLS token with its position added, and no position for it. The sum cannot
be undone, so every layout is brought to that form: the position is added to the CLS token and is zero afterwards.
The mask token is used in training only. The archive holds its initial value, the ledger has the file's own under
"ignored".
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vit2onnx.errors import InputError, InternalError
from vit2onnx.families import vit_layouts
from vit2onnx.families.dinov2.architecture import Architecture
from vit2onnx.families.vit_layouts import ACT_LAYERS, BLOCK, MASK_TOKEN, NO_MASK_TOKEN, same
from vit2onnx.weights.keytable import (
    ADD_FIRST_AXIS,
    ADD_PIXEL_AXES,
    COPY,
    DROP_FIRST_AXIS,
    DROP_PIXEL_AXES,
    FUSE_QKV,
    TRANSPOSE,
    Entry,
    Ignored,
    KeyTable,
    Shape,
    Transform,
    chained,
    part_of,
)

TABLE = "global_pos_embed.weight"

FUSE_HALVES = Transform(
    "fuse_halves",
    shapes=lambda target: ((target[0] // 2, *target[1:]),) * 2,
    apply=lambda sources, target: np.concatenate(sources),
    invert=lambda value: np.split(value, 2),
)


def _synthetic_position(channels: int) -> np.ndarray:
    """The position of CLS in synthetic files, of all digits, so that adding it rounds as it does in the releases."""
    return (np.sin(np.arange(1, channels + 1)) / 8).astype(np.float32)


def _without_position(value: np.ndarray) -> np.ndarray:
    """A CLS token that gives `value` with its position, in single precision."""
    position = _synthetic_position(value.shape[-1])
    token = value - position
    # The difference is rounded too, so the token may be an ulp off.
    for _ in range(4):
        off = value - (token + position)
        token = np.where(off == 0, token, np.nextafter(token, np.copysign(np.float32(np.inf), off)))
    if np.any(token + position != value):
        raise InternalError("a synthetic CLS token is not what its sum with the position gives back")
    return token


def _add_position(rows: int) -> Transform:
    """The CLS token with its position, the first of `rows` rows of the table."""
    return Transform(
        "add_position",
        shapes=lambda target: ((1, *target), (1, rows, *target[1:])),
        apply=lambda sources, target: sources[0][0] + sources[1][0, :1],
        # The table is given by its own line.
        invert=lambda value: [_without_position(value)[None]],
    )


ZERO_POSITION = Transform(
    "zero_position_of_cls",
    shapes=lambda target: ((1, *target),),
    apply=lambda sources, target: np.concatenate([np.zeros_like(sources[0][0, :1]), sources[0][0, 1:]]),
    invert=lambda value: [np.concatenate([_synthetic_position(value.shape[-1])[None], value[1:]])[None]],
)
NO_POSITION = Transform(
    "no_position_of_cls",
    shapes=lambda target: ((1, target[0] - 1, *target[1:]),),
    apply=lambda sources, target: np.concatenate([np.zeros_like(sources[0][0, :1]), sources[0][0]]),
    invert=lambda value: [value[None, 1:]],
)


def _grid(sources: list[np.ndarray], target: Shape) -> np.ndarray:
    (table,) = sources
    if np.any(table[0]):
        raise InputError("The archive holds a position of CLS that was not added to the token; make it anew.")
    return table[1:].reshape(target)


TAKE_GRID = Transform(
    "take_grid",
    shapes=lambda target: ((target[0] * target[1] + 1, target[2]),),
    apply=_grid,
    invert=lambda value: [np.concatenate([np.zeros_like(value[0, :1]), value.reshape(-1, value.shape[-1])])],
)


def _lines(
    arch: Architecture,
    *,
    embeddings: str,
    patch_embed: str,
    position: str,
    register: str,
    position_is_added: bool,
    block: str,
    scale: str,
    proj: str,
    w3: str,
    norm: str,
) -> tuple[Entry, ...]:
    """The lines that differ between layouts in names only, and how the position of CLS is told."""
    cls, table, registers = (f"{embeddings}{name}" for name in ("cls_token", position, register))
    added = Entry("cls_token", (cls,), DROP_FIRST_AXIS), Entry(TABLE, (table,), NO_POSITION)
    apart = (
        Entry("cls_token", (cls, table), _add_position(arch.position_grid**2 + 1)),
        Entry(TABLE, (table,), ZERO_POSITION),
    )
    return (
        Entry("patch_embed.proj.weight", (f"{embeddings}{patch_embed}.weight",)),
        Entry("patch_embed.proj.bias", (f"{embeddings}{patch_embed}.bias",), ADD_PIXEL_AXES),
        *(added if position_is_added else apart),
        Entry("reg_tokens", (registers,), DROP_FIRST_AXIS),
        NO_MASK_TOKEN,
        *same(f"{BLOCK}.prenorm", f"{block}.norm1"),
        *same(f"{BLOCK}.norm", f"{block}.norm2"),
        *(Entry(f"{BLOCK}.ls{i}.gamma", (f"{block}.{scale.format(i)}",)) for i in (1, 2)),
        *same(f"{BLOCK}.attn.proj", f"{block}.{proj}"),
        *same(f"{BLOCK}.mlp.fc1", f"{block}.mlp.fc1"),
        *same(f"{BLOCK}.mlp.fc2", f"{block}.mlp.fc2"),
        *same(f"{BLOCK}.mlp.w3", f"{block}.mlp.{w3}"),
        *same("norm", norm),
    )


def _original(arch: Architecture, register: str, w12: str, w3: str, *, position_is_added: bool) -> tuple[Entry, ...]:
    """Lines by the publisher's names, of which timm has changed a few."""
    block = "blocks.{i}"
    return (
        *_lines(
            arch,
            embeddings="",
            patch_embed="patch_embed.proj",
            position="pos_embed",
            register=register,
            position_is_added=position_is_added,
            block=block,
            scale="ls{}.gamma",
            proj="attn.proj",
            w3=w3,
            norm="norm",
        ),
        *same(f"{BLOCK}.attn.qkv", f"{block}.attn.qkv"),
        *same(f"{BLOCK}.mlp.w12", f"{block}.mlp.{w12}"),
    )


def meta(arch: Architecture) -> KeyTable:
    """The publisher's own files."""
    lines = _original(arch, "register_tokens", "w12", "w3", position_is_added=False)
    return KeyTable("meta", lines, {"mask_token": Ignored(MASK_TOKEN, (1, arch.embed_dim))})


def timm(arch: Architecture) -> KeyTable:
    """timm's files, which hold no mask token."""
    return KeyTable("timm", _original(arch, "reg_token", "fc1", "fc2", position_is_added=arch.num_registers > 0))


def huggingface(
    arch: Architecture, layout: str, qkv: tuple[str, ...], proj: str, w12: tuple[str, ...], w3: str
) -> KeyTable:
    """Hugging Face's files; the names from `qkv` on are those within a block's attention and feed-forward layer."""
    block = "encoder.layer.{i}"
    lines = _lines(
        arch,
        embeddings="embeddings.",
        patch_embed="patch_embeddings.projection",
        position="position_embeddings",
        register="register_tokens",
        position_is_added=False,
        block=block,
        scale="layer_scale{}.lambda1",
        proj=f"attention.{proj}",
        w3=w3,
        norm="layernorm",
    )
    for leaf in ("weight", "bias"):
        queries = tuple(f"{block}.attention.{name}.{leaf}" for name in qkv)
        gates = tuple(f"{block}.mlp.{name}.{leaf}" for name in w12)
        lines += (
            Entry(f"{BLOCK}.attn.qkv.{leaf}", queries, FUSE_QKV),
            Entry(f"{BLOCK}.mlp.w12.{leaf}", gates, FUSE_HALVES if len(w12) == 2 else COPY),
        )
    return KeyTable(layout, lines, {"embeddings.mask_token": Ignored(MASK_TOKEN, (1, arch.embed_dim))})


def tables(arch: Architecture) -> tuple[KeyTable, ...]:
    """All layouts of an architecture."""
    # timm's first, because without registers its names are Meta's but for the mask token, which tells them apart.
    return (
        timm(arch),
        meta(arch),
        huggingface(
            arch,
            "huggingface",
            ("attention.query", "attention.key", "attention.value"),
            "output.dense",
            ("weights_in",),
            "weights_out",
        ),
        huggingface(
            arch, "huggingface5", ("q_proj", "k_proj", "v_proj"), "o_proj", ("gate_proj", "up_proj"), "down_proj"
        ),
    )


def _parts(target: str, source: str, names: tuple[str, ...]) -> Iterator[Entry]:
    """Layers that Equimo stores as one."""
    for index, name in enumerate(names):
        part = part_of(f"take_{name}", index, len(names))
        yield Entry(f"{target}.{name}.weight", (f"{source}.weight",), chained(part, TRANSPOSE))
        yield Entry(f"{target}.{name}.bias", (f"{source}.bias",), part)


def model_table(arch: Architecture) -> KeyTable:
    """From the archive's tree to the model's. Equimo stores [out, in], our model [in, out]."""
    return KeyTable(
        "archive",
        entries=(
            Entry("patch_embed.weight", ("patch_embed.proj.weight",)),
            Entry("patch_embed.bias", ("patch_embed.proj.bias",), DROP_PIXEL_AXES),
            Entry("cls_token", ("cls_token",), ADD_FIRST_AXIS),
            Entry("register_tokens", ("reg_tokens",), ADD_FIRST_AXIS),
            Entry("positions.table", (TABLE,), TAKE_GRID),
            *same("blocks.{i}.norm1", f"{BLOCK}.prenorm"),
            *_parts("blocks.{i}.attn", f"{BLOCK}.attn.qkv", ("q", "k", "v")),
            *same("blocks.{i}.attn.proj", f"{BLOCK}.attn.proj", TRANSPOSE),
            *same("blocks.{i}.norm2", f"{BLOCK}.norm"),
            *same("blocks.{i}.mlp.fc1", f"{BLOCK}.mlp.fc1", TRANSPOSE),
            *same("blocks.{i}.mlp.fc2", f"{BLOCK}.mlp.fc2", TRANSPOSE),
            *_parts("blocks.{i}.mlp", f"{BLOCK}.mlp.w12", ("w1", "w2")),
            *same("blocks.{i}.mlp.w3", f"{BLOCK}.mlp.w3", TRANSPOSE),
            *(Entry(f"blocks.{{i}}.ls{j}.gamma", (f"{BLOCK}.ls{j}.gamma",)) for j in (1, 2)),
            *same("norm", "norm"),
        ),
        # Equimo has a place for it, our model has none.
        ignored={"mask_token": Ignored(MASK_TOKEN, (1, arch.embed_dim))},
    )


def archive_config(arch: Architecture) -> dict[str, Any]:
    """The arguments of Equimo's `VisionTransformer` for an architecture."""
    return {
        "img_size": arch.position_grid * arch.patch_size,
        "in_channels": 3,
        "patch_size": arch.patch_size,
        "dim": arch.embed_dim,
        "num_heads": arch.num_heads,
        "depths": [arch.depth],
        # Equimo takes the width of a SwiGLU before it is cut to two thirds.
        "mlp_ratio": arch.ffn_hidden / arch.embed_dim * (1.5 if arch.ffn == "swiglu" else 1.0),
        "ffn_layer": "swiglufused" if arch.ffn == "swiglu" else arch.ffn,
        "reg_tokens": arch.num_registers,
        "use_mask_token": True,
        "dynamic_img_size": True,
        "interpolate_antialias": arch.position_antialias,
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
    if name == TABLE:
        # Rougher tables than the releases' amplify the rounding of any resizing, the publisher's as well.
        return 0.1 * noise
    if leaf == "cls_token":
        return 0.3 * noise + _synthetic_position(noise.shape[-1])
    # What enters the first norm is small, as in the releases, so that another epsilon shows there.
    if leaf == "reg_tokens":
        return 0.3 * noise
    if name.startswith("patch_embed."):
        return 0.3 * noise / np.float32(np.sqrt(np.prod(noise.shape[1:])) if leaf == "weight" else 1)
    return None
