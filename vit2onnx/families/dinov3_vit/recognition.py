"""How a vision transformer of DINOv3 is recognised. Standard library only: the Snakefile imports this module."""

from collections.abc import Mapping
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.families.recognition import Shapes, activation_of, count, number_of_heads

# Tensors whose names mark a backbone of this family, and the `model_type` of transformers' configs.
MARKS = ("blocks.0.norm1.weight", "layer.0.norm1.weight", "model.layer.0.norm1.weight")
MODEL_TYPES = ("dinov3_vit",)


def recognise(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    """Layout and architecture, as far as names and shapes show them; `None` if it is of another family.

    Any `KeyError`, `IndexError`, `ValueError` or `ZeroDivisionError` means the same.
    """
    if "pos_embed" in shapes or "embeddings.position_embeddings" in shapes:
        return None
    if "cls_token" in shapes and ("rope_embed.periods" in shapes or "storage_tokens" in shapes):
        return "meta", _meta(shapes)
    if "cls_token" in shapes and "blocks.0.gamma_1" in shapes:
        return "timm_qkvb" if "blocks.0.attn.q_bias" in shapes else "timm", _timm(shapes)
    if "embeddings.cls_token" in shapes:
        layout, layer = next(
            (
                found
                for found in (("huggingface", "layer"), ("huggingface5", "model.layer"))
                if f"{found[1]}.0.norm1.weight" in shapes
            ),
            ("", ""),
        )
        return (layout, _huggingface(shapes, layer)) if layout else None
    return None


def _meta(shapes: Shapes) -> dict[str, Any]:
    block = "blocks.0"
    gated, bias = f"{block}.mlp.w1.weight" in shapes, f"{block}.attn.qkv.bias" in shapes
    found = _common(shapes, "patch_embed.proj", "storage_tokens", "blocks", f"{block}.mlp.{'w1' if gated else 'fc1'}")
    periods = shapes.get("rope_embed.periods")
    return {
        **found,
        **({"num_heads": found["embed_dim"] // (4 * periods[0])} if periods and periods[0] else {}),
        "ffn": "swiglu" if gated else "mlp",
        "qkv_bias": bias,
        # Without a mask, the bias of keys counts.
        "key_bias": bias and f"{block}.attn.qkv.bias_mask" not in shapes,
        "local_cls_norm": "local_cls_norm.weight" in shapes,
        "rope_periods": "checkpoint",
    }


def _huggingface(shapes: Shapes, layer: str) -> dict[str, Any]:
    block = f"{layer}.0"
    return {
        **_common(shapes, "embeddings.patch_embeddings", "embeddings.register_tokens", layer, f"{block}.mlp.up_proj"),
        "ffn": "swiglu" if f"{block}.mlp.gate_proj.weight" in shapes else "mlp",
        "qkv_bias": f"{block}.attention.q_proj.bias" in shapes,
        "key_bias": f"{block}.attention.k_proj.bias" in shapes,
        "local_cls_norm": False,
        "rope_periods": "float32",
    }


def _timm(shapes: Shapes) -> dict[str, Any]:
    block = "blocks.0"
    gated = f"{block}.mlp.fc1_g.weight" in shapes
    return {
        **_common(shapes, "patch_embed.proj", "reg_token", "blocks", f"{block}.mlp.{'fc1_g' if gated else 'fc1'}"),
        "ffn": "swiglu" if gated else "mlp",
        "qkv_bias": f"{block}.attn.q_bias" in shapes,
        "key_bias": False,
        "local_cls_norm": False,
        "rope_periods": "float32",
    }


def _common(shapes: Shapes, patch_embed: str, registers: str, layers: str, hidden: str) -> dict[str, Any]:
    embed_dim, _, patch_size, _ = shapes[f"{patch_embed}.weight"]
    return {
        "embed_dim": embed_dim,
        "depth": count(shapes, rf"{layers}\.(\d+)\."),
        "patch_size": patch_size,
        "num_registers": shapes[registers][1] if registers in shapes else 0,
        "ffn_hidden": shapes[f"{hidden}.weight"][0],
    }


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture, as far as a config of transformers gives it, with that library's defaults."""
    gated, bias = config.get("use_gated_mlp", False), config.get("query_bias", True)
    if config.get("value_bias", True) != bias:
        raise InputError("config.json gives a bias to one of queries and values, but models here have both or none")
    for part in ("proj_bias", "mlp_bias"):
        if config.get(part, True) is not True:
            raise InputError(f"config.json says {part} {config[part]}, but models here have this bias")
    return {
        "embed_dim": config.get("hidden_size", 384),
        "depth": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 6),
        "num_registers": config.get("num_register_tokens", 0),
        "ffn": "swiglu" if gated else "mlp",
        "ffn_hidden": config.get("intermediate_size", 1536),
        "qkv_bias": bias,
        "key_bias": config.get("key_bias", False),
        "norm_eps": config.get("layer_norm_eps", 1e-5),
        "rope_theta": config.get("rope_theta", 100.0),
        "activation": activation_of(config, "gelu"),
    }


def assume(seen: Mapping[str, Any], release: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of the architecture, as in a release."""
    return {
        "num_heads": seen["num_heads"] if "num_heads" in seen else number_of_heads(seen["embed_dim"], release),
        "norm_eps": release["norm_eps"],
        "rope_theta": 100.0,
        "activation": "silu" if seen["ffn"] == "swiglu" else "gelu",
    }
