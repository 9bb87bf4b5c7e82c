"""DINOv3's vision transformer in PyTorch, as Hugging Face and as its publisher wrote it; code and names are not ours.

The publisher's own code is run when the user has a clone of it. Nothing of it is part of this project.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import get_patches_center_coordinates

from vit2onnx.errors import InputError
from vit2onnx.families.dinov3_vit.architecture import REPOSITORY, Architecture
from vit2onnx.families.preparation import Channels, Prepare, bilinear_preparations, own_preparations
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
ATTENTION = (r"^blocks\.(\d+)\.attn\.proj\.", r"model.layer.\1.attention.o_proj.")
RENAMES = (
    (
        r"\.ls1\.gamma$",
        (
            (r"^(cls_token|mask_token)$", r"embeddings.\1"),
            (r"^storage_tokens$", "embeddings.register_tokens"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
            ATTENTION,
            (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
            (r"\.mlp\.(fc1|w2)\.", ".mlp.up_proj."),
            (r"\.mlp\.(fc2|w3)\.", ".mlp.down_proj."),
            (r"\.mlp\.w1\.", ".mlp.gate_proj."),
            (r"^blocks\.", "model.layer."),
        ),
    ),
    (
        r"\.gamma_1$",
        (
            (r"^cls_token$", "embeddings.cls_token"),
            (r"^reg_token$", "embeddings.register_tokens"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
            ATTENTION,
            (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
            (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
            (r"\.mlp\.(fc1|fc1_x)\.", ".mlp.up_proj."),
            (r"\.mlp\.fc2\.", ".mlp.down_proj."),
            (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
            (r"^blocks\.", "model.layer."),
        ),
    ),
    (r"^layer\.0\.norm1\.weight$", ((r"^layer\.", "model.layer."),)),
    (r"^model\.layer\.0\.norm1\.weight$", ()),
)
# Held by some files and known to no inference model.
TRAINING_ONLY = r"local_cls_norm\..*|rope_embed\.periods|.*\.bias_mask"

# Mean and standard deviation of the data that a release was trained on, from the publisher's README; kept apart from
# those of config/variants, which are to be checked.
PUBLISHED = {
    "lvd1689m": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "sat493m": ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
}


class DoubleRope(nn.Module):
    """Transformers' rotary table from the given periods in double precision, where its own stays in single."""

    def __init__(self, periods: torch.Tensor, patch_size: int):
        super().__init__()
        self.periods, self.patch_size = periods.double(), patch_size

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid = [size // self.patch_size for size in pixel_values.shape[2:]]
        centres = get_patches_center_coordinates(*grid, dtype=torch.float64, device=pixel_values.device)
        angles = (2 * torch.pi * centres[:, :, None] / self.periods).flatten(1, 2).tile(2)
        return torch.cos(angles), torch.sin(angles)


def transformers_model(arch: Architecture) -> nn.Module:
    """Transformers' model, without memory for its weights."""
    with torch.device("meta"):
        return DINOv3ViTModel(
            DINOv3ViTConfig(
                patch_size=arch.patch_size,
                hidden_size=arch.embed_dim,
                intermediate_size=arch.ffn_hidden,
                num_hidden_layers=arch.depth,
                num_attention_heads=arch.num_heads,
                num_register_tokens=arch.num_registers,
                rope_theta=arch.rope_theta,
                layer_norm_eps=arch.norm_eps,
                use_gated_mlp=arch.ffn == "swiglu",
                hidden_act=HIDDEN_ACTS[arch.act],
                query_bias=arch.qkv_bias,
                value_bias=arch.qkv_bias,
                key_bias=arch.key_bias,
                attn_implementation="sdpa",
            )
        ).eval()


def to_transformers(arch: Architecture, tensors: Mapping[str, LazyTensor]) -> dict[str, Reader]:
    """A checkpoint's tensors under the names of transformers 5."""
    state: dict[str, Reader] = {}
    for key, name in renamed(tensors, RENAMES).items():
        tensor = tensors[key]
        if re.fullmatch(TRAINING_ONLY, key):
            continue
        if match := re.fullmatch(r"(.*)\.attn\.qkv\.(weight|bias)", name):
            third = tensor.shape[0] // 3
            for index, letter in enumerate("qkv"):
                # Without a bias of keys, what stands there is masked.
                if arch.key_bias or (letter, match[2]) != ("k", "bias"):
                    part = slice(index * third, (index + 1) * third)
                    state[f"{match[1]}.attention.{letter}_proj.{match[2]}"] = reader(tensor, part)
        elif name == "embeddings.mask_token":
            state[name] = reader(tensor, shape=(1, 1, arch.embed_dim))
        else:
            state[name] = reader(tensor)
    if not arch.num_registers:
        # Transformers' model has an empty one.
        state.setdefault("embeddings.register_tokens", lambda: torch.zeros(1, 0, arch.embed_dim))
    if "blocks.0.gamma_1" in tensors:
        # What timm leaves out because it is used in training only, or is zero.
        state["embeddings.mask_token"] = lambda: torch.zeros(1, 1, arch.embed_dim)
        if arch.qkv_bias and not any(key.endswith(("attn.q_bias", "attn.v_bias")) for key in tensors):
            names = [
                f"model.layer.{index}.attention.{letter}_proj.bias" for index in range(arch.depth) for letter in "qv"
            ]
            state |= dict.fromkeys(names, partial(torch.zeros, arch.embed_dim))
    return state


def rope_periods(arch: Architecture, tensors: Mapping[str, LazyTensor]) -> torch.Tensor:
    """The RoPE periods that the variant asks for, taken from the checkpoint where its layout holds them."""
    if arch.rope_periods != "float32" and "rope_embed.periods" in tensors:
        return reader(tensors["rope_embed.periods"])()
    # Meta's files hold them.
    if arch.rope_periods == "checkpoint" or (arch.rope_periods == "bfloat16" and "blocks.0.ls1.gamma" in tensors):
        raise InputError(
            "The checkpoint has no rope_embed.periods; give the file as its publisher offers it, or set"
            " architecture.rope_periods to another value."
        )
    count = arch.head_dim // 4
    periods = arch.rope_theta ** (torch.arange(count, dtype=torch.float64) / count)
    return periods.to(torch.bfloat16 if arch.rope_periods == "bfloat16" else torch.float32).float()


def transformers_steps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    """The vision transformer step by step."""
    rope = model.rope_embeddings(inputs["pixel_values"])

    return [
        Step(("embeddings",), model.embeddings, "patch_embed", {"patch_embed": Tap()}),
        *vit_steps("model.layer", model.model.layer, TRANSFORMERS_PARTS, position_embeddings=rope),
        Step(("norm",), model.norm, "norm", {"norm": Tap()}, port=HIDDEN),
    ]


def transformers(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], _: Path | None) -> Reference:
    """Hugging Face's model of a variant, with the variant's RoPE periods."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    state, model = to_transformers(arch, tensors), transformers_model(arch)
    check_names(f"{name} does not fit transformers' model of {spec.name}", model, state)
    periods = rope_periods(arch, tensors)
    model.rope_embeddings.inv_freq = 1 / periods

    def in_double() -> None:
        model.rope_embeddings = DoubleRope(periods, arch.patch_size)

    def natively() -> None:
        model.rope_embeddings = type(model.rope_embeddings)(model.config).eval()

    is_other = arch.rope_periods != "float32"
    return Reference(model, state, partial(transformers_steps, model), in_double, natively if is_other else None)


def from_transformers(spec: VariantSpec, model: nn.Module, state: Mapping[str, Reader]) -> Reference:
    """A model that transformers has built and filled by itself; its own config says what the periods are."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    theta, count = model.config.rope_theta, len(model.rope_embeddings.inv_freq)
    periods = (theta ** (torch.arange(count, dtype=torch.float64) / count)).float()

    def in_double() -> None:
        model.rope_embeddings = DoubleRope(periods, arch.patch_size)

    return Reference(model, state, partial(transformers_steps, model), in_double)


def publisher_model(arch: Architecture, repository: Path | None) -> nn.Module:
    """The publisher's model, without memory for its weights. Raises `InputError` if there is no clone of its code."""
    import_from(repository, "dinov3/models/vision_transformer.py", REPOSITORY)
    if arch.act != ("silu" if arch.ffn == "swiglu" else "gelu"):
        raise InputError(
            f"The publisher's code has no {arch.act} with ffn: {arch.ffn}; leave reference.repositories empty."
        )
    with torch.device("meta"):
        from dinov3.models.vision_transformer import DinoVisionTransformer

        return DinoVisionTransformer(
            patch_size=arch.patch_size,
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            num_heads=arch.num_heads,
            # The width of a SwiGLU before it is cut to two thirds.
            ffn_ratio=arch.ffn_hidden / arch.embed_dim * (1.5 if arch.ffn == "swiglu" else 1.0),
            ffn_layer=arch.ffn,
            qkv_bias=arch.qkv_bias,
            n_storage_tokens=arch.num_registers,
            layerscale_init=1e-5,
            norm_layer="layernormbf16",
            mask_k_bias=not arch.key_bias,
            untie_global_and_local_cls_norm=arch.local_cls_norm,
            pos_embed_rope_base=arch.rope_theta,
            pos_embed_rope_dtype="fp32",
        ).eval()


def publisher_steps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Sequence[Step]:
    """The vision transformer step by step."""
    grid_height, grid_width = (size // model.patch_size for size in inputs["pixel_values"].shape[2:])
    rope = model.rope_embed(H=grid_height, W=grid_width)

    def embed(x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = model.prepare_tokens_with_masks(x)[0]
        return tokens

    embedding = ("cls_token", "storage_tokens", "mask_token", "patch_embed")
    return [
        Step(embedding, embed, "patch_embed", {"patch_embed": Tap()}),
        *vit_steps("blocks", model.blocks, META_PARTS, rope_or_rope_list=rope),
        Step(("norm",), model.norm, "norm", {"norm": Tap()}, port=HIDDEN),
    ]


def publisher(spec: VariantSpec, name: str, tensors: Mapping[str, LazyTensor], repository: Path | None) -> Reference:
    """The publisher's model of a variant. Raises `InputError` for a checkpoint in another layout than its own."""
    arch: Architecture = spec.architecture  # type: ignore[assignment]
    model = publisher_model(arch, repository)
    state = publisher_state(name, model, tensors)
    periods = rope_periods(arch, tensors)
    model.rope_embed.periods = periods

    def in_double() -> None:
        model.rope_embed.dtype, model.rope_embed.periods = torch.float64, periods.double()

    def natively() -> None:
        model.rope_embed.periods = reader(tensors["rope_embed.periods"])()

    is_other = arch.rope_periods == "float32"
    return Reference(model, state, partial(publisher_steps, model), in_double, natively if is_other else None)


REFERENCES = {"transformers": transformers, "publisher": publisher}


def published_constants(spec: VariantSpec) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel that the publisher names for a release."""
    if spec.released is None:
        return spec.preprocessing.mean, spec.preprocessing.std
    return next(constants for data, constants in PUBLISHED.items() if data in spec.release.file)


def preparations(spec: VariantSpec) -> dict[str, Prepare]:
    """By name, how the publisher and transformers prepare photographs."""
    if spec.released is None:
        return own_preparations(spec.preprocessing)
    return bilinear_preparations(*published_constants(spec))
