"""What is published of DINOv2, written by hand apart from key tables and YAML: names, shapes, sizes, hashes."""

from typing import Any

import numpy as np

from tests.checkpoints.names import Shapes, affine, under
from vit2onnx.families.dinov2.architecture import Architecture

# Parameters, mask token included, and the beginning of the file's SHA-256, by variant.
RELEASES = {
    "dinov2_vits14_pretrain": (22_056_576, "b938bf1b"),
    "dinov2_vits14_reg4_pretrain": (22_058_112, "f4331770"),
    "dinov2_vitb14_pretrain": (86_580_480, "0b8b82f8"),
    "dinov2_vitb14_reg4_pretrain": (86_583_552, "73182a08"),
    "dinov2_vitl14_pretrain": (304_368_640, "d5383ea8"),
    "dinov2_vitl14_reg4_pretrain": (304_372_736, "36e4deff"),
    "dinov2_vitg14_pretrain": (1_136_480_768, "baf8467e"),
    "dinov2_vitg14_reg4_pretrain": (1_136_486_912, "746ecb8c"),
}
# Tensors in the publisher's file by depth, without and with registers.
TENSORS = {12: (175, 176), 24: (343, 344), 40: (567, 568)}
LAYOUTS = ["meta", "huggingface", "huggingface5", "timm"]


def shapes_by_layout(arch: Architecture) -> dict[str, Shapes]:
    """Names and shapes of a file in every layout."""
    return {
        "meta": meta(arch),
        "huggingface": huggingface(arch, released=True),
        "huggingface5": huggingface(arch, released=False),
        "timm": timm(arch),
    }


def meta(arch: Architecture) -> Shapes:
    dim, hidden = arch.embed_dim, arch.ffn_hidden
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + arch.position_grid**2, dim),
        "mask_token": (1, dim),
        **affine("patch_embed.proj", dim, 3, 14, 14),
        **affine("norm", dim),
    }
    if arch.num_registers:
        shapes["register_tokens"] = (1, 4, dim)
    for i in range(arch.depth):
        block: Shapes = {
            **affine("norm1", dim),
            **affine("attn.qkv", 3 * dim, dim),
            **affine("attn.proj", dim, dim),
            "ls1.gamma": (dim,),
            **affine("norm2", dim),
            "ls2.gamma": (dim,),
        }
        if arch.ffn == "swiglu":
            block |= affine("mlp.w12", 2 * hidden, dim) | affine("mlp.w3", dim, hidden)
        else:
            block |= affine("mlp.fc1", hidden, dim) | affine("mlp.fc2", dim, hidden)
        shapes |= under(f"blocks.{i}", block)
    return shapes


def huggingface(arch: Architecture, *, released: bool) -> Shapes:
    """As Hugging Face released them, or as transformers 5 holds them."""
    dim, hidden = arch.embed_dim, arch.ffn_hidden
    shapes: Shapes = {
        "embeddings.cls_token": (1, 1, dim),
        "embeddings.position_embeddings": (1, 1 + arch.position_grid**2, dim),
        "embeddings.mask_token": (1, dim),
        **affine("embeddings.patch_embeddings.projection", dim, 3, 14, 14),
        **affine("layernorm", dim),
    }
    if arch.num_registers:
        shapes["embeddings.register_tokens"] = (1, 4, dim)
    names = ("attention.query", "attention.key", "attention.value", "output.dense")
    for i in range(arch.depth):
        block: Shapes = {
            **affine("norm1", dim),
            "layer_scale1.lambda1": (dim,),
            **affine("norm2", dim),
            "layer_scale2.lambda1": (dim,),
        }
        for name in names if released else ("q_proj", "k_proj", "v_proj", "o_proj"):
            block |= affine(f"attention.{name}", dim, dim)
        if arch.ffn == "mlp":
            block |= affine("mlp.fc1", hidden, dim) | affine("mlp.fc2", dim, hidden)
        elif released:
            block |= affine("mlp.weights_in", 2 * hidden, dim) | affine("mlp.weights_out", dim, hidden)
        else:
            block |= affine("mlp.gate_proj", hidden, dim) | affine("mlp.up_proj", hidden, dim)
            block |= affine("mlp.down_proj", dim, hidden)
        shapes |= under(f"encoder.layer.{i}", block)
    return shapes


def timm(arch: Architecture) -> Shapes:
    dim, hidden = arch.embed_dim, arch.ffn_hidden
    fc1 = 2 * hidden if arch.ffn == "swiglu" else hidden
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        # With registers, the position of CLS is part of the token.
        "pos_embed": (1, arch.position_grid**2 + (not arch.num_registers), dim),
        **affine("patch_embed.proj", dim, 3, 14, 14),
        **affine("norm", dim),
    }
    if arch.num_registers:
        shapes["reg_token"] = (1, 4, dim)
    for i in range(arch.depth):
        block: Shapes = {
            **affine("norm1", dim),
            **affine("attn.qkv", 3 * dim, dim),
            **affine("attn.proj", dim, dim),
            "ls1.gamma": (dim,),
            **affine("norm2", dim),
            **affine("mlp.fc1", fc1, dim),
            **affine("mlp.fc2", dim, hidden),
            "ls2.gamma": (dim,),
        }
        shapes |= under(f"blocks.{i}", block)
    return shapes


def leaves(arch: Architecture, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every leaf of our model by hand, from the publisher's file."""
    found: dict[str, Any] = {
        "patch_embed.weight": state["patch_embed.proj.weight"],
        "patch_embed.bias": state["patch_embed.proj.bias"],
        "cls_token": state["cls_token"] + state["pos_embed"][:, :1],
        "positions.table": state["pos_embed"][0, 1:].reshape(arch.position_grid, arch.position_grid, -1),
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    if arch.num_registers:
        found["register_tokens"] = state["register_tokens"]
    for i in range(arch.depth):
        block = f"blocks.{i}"
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            found[f"{block}.{name}"] = state[f"{block}.{name}"]
        for name in ("attn.proj", *(("mlp.w3",) if arch.ffn == "swiglu" else ("mlp.fc1", "mlp.fc2"))):
            found[f"{block}.{name}.weight"] = state[f"{block}.{name}.weight"].T
            found[f"{block}.{name}.bias"] = state[f"{block}.{name}.bias"]
        fused = {"attn.qkv": ("attn.q", "attn.k", "attn.v")}
        if arch.ffn == "swiglu":
            fused["mlp.w12"] = ("mlp.w1", "mlp.w2")
        for source, targets in fused.items():
            weights = np.split(state[f"{block}.{source}.weight"], len(targets))
            biases = np.split(state[f"{block}.{source}.bias"], len(targets))
            for target, weight, bias in zip(targets, weights, biases, strict=True):
                found[f"{block}.{target}.weight"], found[f"{block}.{target}.bias"] = weight.T, bias
    return found
