"""DINOv2 in PyTorch, as Hugging Face and as its publisher wrote it; code and names are not ours.

The publisher's own code is run when the user has a clone of it. Nothing of it is part of this project. Both cast the
position table to single precision before they resize it. In double precision this module resizes it instead.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from vit2onnx.families.dinov2.architecture import REPOSITORY, Architecture
from vit2onnx.families.preparation import Channels, Prepare, cropping_preparations, own_preparations
from vit2onnx.families.recognition import HIDDEN_ACTS
from vit2onnx.families.reference import (
    HIDDEN,
    META_PARTS,
    TRANSFORMERS_PARTS,
    Reader,
    Reference,
    Step,
    Tap,
    check_names,
    import_from,
    publisher_state,
    reader,
    renamed,
    vit_steps,
)
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor

# From the names of a file to those of transformers 5; the first pattern is a name that only this layout has. Written
# apart from the key tables in layouts.py, because a reference that is filled through the table under test would repeat
# its mistakes.
META_AND_TIMM = (
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.o_proj."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
    (r"^blocks\.", "encoder.layer."),
    (r"^norm\.", "layernorm."),
)
RENAMES = (
    (r"^blocks\.", META_AND_TIMM),
    (
        r"\.attention\.attention\.query\.",
        (
            (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attention.\1_proj."),
            (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        ),
    ),
    (r"\.attention\.q_proj\.", ()),
)
# Layers that a file holds as one, and their names in transformers 5. timm calls the two layers of a SwiGLU as those of
# an MLP.
QKV = (r"\.attn\.qkv\.", ("attention.q_proj", "attention.k_proj", "attention.v_proj"))
W12 = (r"\.mlp\.(w12|weights_in|fc1)\.", ("mlp.gate_proj", "mlp.up_proj"))
DOWN = r"\.mlp\.(w3|weights_out|fc2)\."

# Activations as its publisher's code takes them; in a SwiGLU it has its own.
ACT_LAYERS: Mapping[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}

# Mean and standard deviation that the publisher names, kept apart from those of config/variants, which are to be
# checked; and how much of a photograph the input shows: the central 224 of 256 pixels.
PUBLISHED = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHOWN = 224 / 256


def resized(table: torch.Tensor, grid: Sequence[int], arch: Architecture) -> torch.Tensor:
    """A position table [1, 1 + patches, channels] for a grid of patches, in its own dtype, as the releases mean it."""
    side = arch.position_grid
    if tuple(grid) == (side, side):
        return table
    square = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    offset = arch.position_offset
    how: dict[str, Any] = (
        {"scale_factor": tuple((size + offset) / side for size in grid)} if offset else {"size": tuple(grid)}
    )
    # PARITY: a grid of one column as one row. PyTorch 2.13, antialiased on a CPU, makes all rows of it the first.
    is_turned = arch.position_antialias and grid[1] == 1
    if is_turned:
        square, how = square.mT, {"size": (1, grid[0])}
    patches = nn.functional.interpolate(square, mode="bicubic", antialias=arch.position_antialias, **how)
    patches = patches.mT if is_turned else patches
    return torch.cat([table[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def transformers_model(arch: Architecture) -> nn.Module:
    """Transformers' model, without memory for its weights."""
    common: dict[str, Any] = {
        "patch_size": arch.patch_size,
        "image_size": arch.position_grid * arch.patch_size,
        "hidden_size": arch.embed_dim,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        # A whole number; that of a SwiGLU before its width is cut to two thirds.
        "mlp_ratio": round(arch.ffn_hidden / arch.embed_dim * (1.5 if arch.ffn == "swiglu" else 1.0)),
        "use_swiglu_ffn": arch.ffn == "swiglu",
        "layer_norm_eps": arch.norm_eps,
        "hidden_act": HIDDEN_ACTS[arch.act],
        "qkv_bias": True,
        "attn_implementation": "sdpa",
    }
    with torch.device("meta"):
        if arch.num_registers:
            config = Dinov2WithRegistersConfig(num_register_tokens=arch.num_registers, **common)
            return Dinov2WithRegistersModel(config).eval()
        return Dinov2Model(Dinov2Config(**common)).eval()


def to_transformers(arch: Architecture, tensors: Mapping[str, LazyTensor]) -> dict[str, Reader]:
    """A checkpoint's tensors under the names of transformers 5."""
    is_swiglu = arch.ffn == "swiglu"
    state: dict[str, Reader] = {}
    for key, name in renamed(tensors, RENAMES).items():
        tensor = tensors[key]
        if is_swiglu:
            name = re.sub(DOWN, ".mlp.down_proj.", name)
        for pattern, parts in (QKV, *([W12] if is_swiglu else [])):
            if re.search(pattern, name):
                size = tensor.shape[0] // len(parts)
                for index, part in enumerate(parts):
                    rows = slice(index * size, (index + 1) * size)
                    state[re.sub(pattern, f".{part}.", name)] = reader(tensor, rows)
                break
        else:
            state[name] = reader(tensor)
    table, cls = (f"embeddings.{name}" for name in ("position_embeddings", "cls_token"))
    if "reg_token" in tensors and table in state:
        # What timm has added to the CLS token, and left out.
        of_patches = state[table]
        state[table] = lambda: torch.cat([torch.zeros(1, 1, arch.embed_dim), of_patches()], dim=1)
    elif table in state and cls in state:
        add_position(state, cls, table)
    if cls in state and "embeddings.mask_token" not in state:
        # What timm leaves out because it is used in training only.
        state["embeddings.mask_token"] = lambda: torch.zeros(1, arch.embed_dim)
    return state


def add_position(state: dict[str, Reader], cls: str, table: str) -> None:
    """Add the position of CLS to the token once, in single precision.

    Every run in single precision rounds this sum, and some files hold nothing else. In double precision the parts would
    be another model.
    """
    apart, whole = state[cls], state[table]
    state[cls] = lambda: apart() + whole()[:, :1]
    state[table] = lambda: torch.cat([torch.zeros_like(whole()[:, :1]), whole()[:, 1:]], dim=1)


def _resize_with(module: nn.Module, resize: Callable[..., torch.Tensor]) -> None:
    """Have a model resize its table with `resize(patches, height, width)`."""
    module.interpolate_pos_encoding = resize


def transformers_steps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    """The vision transformer step by step."""
    return [
        Step(("embeddings",), model.embeddings, "patch_embed", {"patch_embed": Tap()}),
        *vit_steps("encoder.layer", model.encoder.layer, TRANSFORMERS_PARTS),
        Step(("layernorm",), model.layernorm, "norm", {"norm": Tap()}, port=HIDDEN),
    ]


def transformers(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], _: Path | None) -> Reference:
    """Hugging Face's model of a variant, with the position table resized as the variant has it."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    state, model = to_transformers(arch, tensors), transformers_model(arch)
    check_names(f"{name} does not fit transformers' model of {spec.name}", model, state)
    embeddings = model.embeddings

    def as_released(_: torch.Tensor, height: int, width: int) -> torch.Tensor:
        grid = height // arch.patch_size, width // arch.patch_size
        return resized(embeddings.position_embeddings, grid, arch)

    def natively() -> None:
        del embeddings.interpolate_pos_encoding

    in_double = partial(_resize_with, embeddings, as_released)
    # Transformers by itself resizes without an offset, and antialiased exactly if there are registers.
    differs = (arch.position_antialias, arch.position_offset) != (arch.num_registers > 0, 0.0)
    if differs:
        in_double()
    return Reference(model, state, partial(transformers_steps, model), in_double, natively if differs else None)


def from_transformers(spec: VariantSpec, model: nn.Module, state: Mapping[str, Reader]) -> Reference:
    """A model that transformers has built and filled by itself."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    embeddings, own = model.embeddings, dict(state)
    add_position(own, "embeddings.cls_token", "embeddings.position_embeddings")

    def in_double_precision(_: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return resized(embeddings.position_embeddings, (height // arch.patch_size, width // arch.patch_size), arch)

    in_double = partial(_resize_with, embeddings, in_double_precision)
    return Reference(model, own, partial(transformers_steps, model), in_double)


def publisher_model(arch: Architecture, repository: Path | None) -> nn.Module:
    """The publisher's model, without memory for its weights. Raises `InputError` if there is no clone of its code."""
    import_from(repository, "dinov2/models/vision_transformer.py", REPOSITORY)
    # Its layers ask for xFormers, which computes the same, and warn that there is none.
    os.environ.setdefault("XFORMERS_DISABLED", "1")
    with warnings.catch_warnings(action="ignore"), torch.device("meta"):
        from dinov2.layers import MemEffAttention, NestedTensorBlock
        from dinov2.models.vision_transformer import DinoVisionTransformer

        return DinoVisionTransformer(
            img_size=arch.position_grid * arch.patch_size,
            patch_size=arch.patch_size,
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            # The width of a SwiGLU before it is cut to two thirds.
            mlp_ratio=arch.ffn_hidden / arch.embed_dim * (1.5 if arch.ffn == "swiglu" else 1.0),
            ffn_layer="swiglufused" if arch.ffn == "swiglu" else arch.ffn,
            init_values=1.0,
            act_layer=ACT_LAYERS[arch.act],
            block_fn=partial(NestedTensorBlock, attn_class=MemEffAttention),
            block_chunks=0,
            num_register_tokens=arch.num_registers,
            interpolate_antialias=arch.position_antialias,
            interpolate_offset=arch.position_offset,
        ).eval()


def publisher_steps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    """The vision transformer step by step."""
    # Its code refuses what its model card says is cropped: pixels beyond the last whole patch.
    height, width = (size // model.patch_size * model.patch_size for size in inputs["pixel_values"].shape[2:])

    def embed(x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = model.prepare_tokens_with_masks(x[:, :, :height, :width])
        return tokens

    embedding = ("cls_token", "register_tokens", "mask_token", "pos_embed", "patch_embed")
    return [
        Step(embedding, embed, "patch_embed", {"patch_embed": Tap()}),
        *vit_steps("blocks", model.blocks, META_PARTS),
        Step(("norm",), model.norm, "norm", {"norm": Tap()}, port=HIDDEN),
    ]


def publisher(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], repository: Path | None) -> Reference:
    """The publisher's model of a variant. Raises `InputError` for a checkpoint in another layout than its own."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    model = publisher_model(arch, repository)
    state = publisher_state(name, model, tensors)
    add_position(state, "cls_token", "pos_embed")

    def as_released(_: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        return resized(model.pos_embed, (rows // arch.patch_size, columns // arch.patch_size), arch)

    return Reference(model, state, partial(publisher_steps, model), partial(_resize_with, model, as_released))


REFERENCES = {"transformers": transformers, "publisher": publisher}


def published_constants(spec: VariantSpec) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel that the publisher names."""
    return PUBLISHED if spec.released else (spec.preprocessing.mean, spec.preprocessing.std)


def preparations(spec: VariantSpec) -> dict[str, Prepare]:
    """By name, how the publisher and transformers prepare photographs."""
    return cropping_preparations(*PUBLISHED, SHOWN) if spec.released else own_preparations(spec.preprocessing)
