"""How a DINOv2 is recognised. Standard library only: the Snakefile imports this module."""

from collections.abc import Mapping
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.families.recognition import Shapes, activation_of, count, number_of_heads, square

# Tensors whose names mark a backbone of this family, and the `model_type` of transformers' configs.
MARKS = ("blocks.0.norm1.weight", "encoder.layer.0.norm1.weight")
MODEL_TYPES = ("dinov2", "dinov2_with_registers")


def recognise(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    """Layout and architecture, as far as names and shapes show them; `None` if it is of another family.

    Any `KeyError`, `IndexError`, `ValueError` or `ZeroDivisionError` means the same.
    """
    if {"cls_token", "pos_embed", "blocks.0.ls1.gamma"} <= shapes.keys():
        is_meta = "mask_token" in shapes or "register_tokens" in shapes
        return ("meta", _meta(shapes)) if is_meta else ("timm", _timm(shapes))
    if {"embeddings.position_embeddings", "encoder.layer.0.layer_scale1.lambda1"} <= shapes.keys():
        is_new = "encoder.layer.0.attention.q_proj.weight" in shapes
        return "huggingface5" if is_new else "huggingface", _huggingface(shapes)
    return None


def _meta(shapes: Shapes) -> dict[str, Any]:
    gated = "blocks.0.mlp.w12.weight" in shapes
    return {
        **_common(shapes, "patch_embed.proj", "register_tokens", "blocks"),
        "ffn": "swiglu" if gated else "mlp",
        "ffn_hidden": shapes["blocks.0.mlp.w3.weight"][1] if gated else shapes["blocks.0.mlp.fc2.weight"][1],
        "position_grid": square(shapes["pos_embed"][1] - 1),
    }


def _timm(shapes: Shapes) -> dict[str, Any]:
    hidden = shapes["blocks.0.mlp.fc2.weight"][1]
    common = _common(shapes, "patch_embed.proj", "reg_token", "blocks")
    return {
        **common,
        "ffn": "swiglu" if shapes["blocks.0.mlp.fc1.weight"][0] == 2 * hidden else "mlp",
        "ffn_hidden": hidden,
        "position_grid": square(shapes["pos_embed"][1] - (0 if common["num_registers"] else 1)),
        # As timm resizes it.
        "position_antialias": True,
        "position_offset": 0.0,
    }


def _huggingface(shapes: Shapes) -> dict[str, Any]:
    mlp = "encoder.layer.0.mlp"
    down = next((name for name in ("fc2", "weights_out", "down_proj") if f"{mlp}.{name}.weight" in shapes), "fc2")
    common = _common(shapes, "embeddings.patch_embeddings.projection", "embeddings.register_tokens", r"encoder\.layer")
    return {
        **common,
        "ffn": "mlp" if down == "fc2" else "swiglu",
        "ffn_hidden": shapes[f"{mlp}.{down}.weight"][1],
        "position_grid": square(shapes["embeddings.position_embeddings"][1] - 1),
        # As transformers resizes it.
        "position_antialias": common["num_registers"] > 0,
        "position_offset": 0.0,
    }


def _common(shapes: Shapes, patch_embed: str, registers: str, layers: str) -> dict[str, Any]:
    embed_dim, _, patch_size, _ = shapes[f"{patch_embed}.weight"]
    return {
        "embed_dim": embed_dim,
        "depth": count(shapes, rf"{layers}\.(\d+)\."),
        "patch_size": patch_size,
        "num_registers": shapes[registers][1] if registers in shapes else 0,
    }


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture, as far as a config of transformers gives it, with that library's defaults."""
    has_registers = config.get("model_type") == "dinov2_with_registers"
    if config.get("qkv_bias", True) is not True:
        raise InputError(f"config.json says qkv_bias {config['qkv_bias']}, but models here have this bias")
    if has_registers and config.get("num_register_tokens", 4) == 0:
        raise InputError("config.json is of a model with registers, but without any; save it as a Dinov2Model")
    found = {
        "embed_dim": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "num_registers": config.get("num_register_tokens", 4) if has_registers else 0,
        "ffn": "swiglu" if config.get("use_swiglu_ffn", False) else "mlp",
        "norm_eps": config.get("layer_norm_eps", 1e-6),
    }
    # A SwiGLU's is fixed.
    return {**found, "activation": "silu" if found["ffn"] == "swiglu" else activation_of(config, "gelu")}


def assume(seen: Mapping[str, Any], release: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of the architecture, as in a release."""
    return {
        "num_heads": seen["num_heads"] if "num_heads" in seen else number_of_heads(seen["embed_dim"], release),
        "norm_eps": release["norm_eps"],
        "activation": "silu" if seen["ffn"] == "swiglu" else "gelu",
        # As the publisher's models of this kind resize it.
        "position_antialias": seen["num_registers"] > 0,
        "position_offset": 0.0 if seen["num_registers"] else 0.1,
    }
