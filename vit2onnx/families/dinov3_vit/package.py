"""How tools of Hugging Face know a vision transformer of DINOv3. Standard library only: the Snakefile imports this."""

from typing import Any

from vit2onnx.families.dinov3_vit.architecture import Architecture
from vit2onnx.families.recognition import HIDDEN_ACTS

# What the file of an interface is called, without its ending.
FILES = {"images": "model"}


def config(arch: Architecture) -> dict[str, Any]:
    """The `config.json` of a model, in the words of transformers' `DINOv3ViTConfig`."""
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "patch_size": arch.patch_size,
        "hidden_size": arch.embed_dim,
        "intermediate_size": arch.ffn_hidden,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        "num_register_tokens": arch.num_registers,
        "rope_theta": arch.rope_theta,
        "layer_norm_eps": arch.norm_eps,
        "use_gated_mlp": arch.ffn == "swiglu",
        "hidden_act": HIDDEN_ACTS[arch.act],
        "query_bias": arch.qkv_bias,
        "value_bias": arch.qkv_bias,
        "key_bias": arch.key_bias,
    }


def processor(_: Architecture) -> dict[str, Any]:
    """The part of `preprocessor_config.json` that no size and no constant decides. The type is the publisher's."""
    return {"image_processor_type": "DINOv3ViTImageProcessorFast"}
