"""How tools of Hugging Face know a DINOv2. Standard library only, because the Snakefile imports this module."""

from typing import Any

from vit2onnx.families.dinov2.architecture import Architecture
from vit2onnx.families.recognition import HIDDEN_ACTS

# What the file of an interface is called, without its ending.
FILES = {"images": "model"}


def config(arch: Architecture) -> dict[str, Any]:
    """The `config.json` of a model, in the words of transformers' `Dinov2Config` or `Dinov2WithRegistersConfig`."""
    is_swiglu = arch.ffn == "swiglu"
    kind: dict[str, Any] = {"architectures": ["Dinov2Model"], "model_type": "dinov2"}
    if arch.num_registers:
        kind = {"architectures": ["Dinov2WithRegistersModel"], "model_type": "dinov2_with_registers"}
        kind["num_register_tokens"] = arch.num_registers
    return {
        **kind,
        "patch_size": arch.patch_size,
        "image_size": arch.position_grid * arch.patch_size,
        "hidden_size": arch.embed_dim,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        # A whole number; that of a SwiGLU before its width is cut to two thirds.
        "mlp_ratio": round(arch.ffn_hidden / arch.embed_dim * (1.5 if is_swiglu else 1.0)),
        "use_swiglu_ffn": is_swiglu,
        "layer_norm_eps": arch.norm_eps,
        "hidden_act": HIDDEN_ACTS[arch.act],
        "qkv_bias": True,
    }


def processor(_: Architecture) -> dict[str, Any]:
    """The part of `preprocessor_config.json` that no size and no constant decides. The type is the publisher's."""
    return {"image_processor_type": "BitImageProcessor"}
