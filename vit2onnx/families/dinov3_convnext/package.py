"""How tools of Hugging Face know a ConvNeXt of DINOv3. Standard library only, because the Snakefile imports this."""

from typing import Any

from vit2onnx.families.dinov3_convnext.architecture import Architecture
from vit2onnx.families.recognition import HIDDEN_ACTS

# What the file of an interface is called, without its ending.
FILES = {"images": "model"}


def config(arch: Architecture) -> dict[str, Any]:
    """The `config.json` of a model, in the words of transformers' `DINOv3ConvNextConfig`."""
    return {
        "architectures": ["DINOv3ConvNextModel"],
        "model_type": "dinov3_convnext",
        "hidden_sizes": list(arch.embed_dims),
        "depths": list(arch.depths),
        "layer_norm_eps": arch.norm_eps,
        "hidden_act": HIDDEN_ACTS[arch.act],
    }


def processor(_: Architecture) -> dict[str, Any]:
    """The part of `preprocessor_config.json` that no size and no constant decides. The type is the publisher's."""
    return {"image_processor_type": "DINOv3ViTImageProcessorFast"}
