"""How tools of Hugging Face know a SigLIP2. Standard library only, because the Snakefile imports this module."""

from typing import Any

from vit2onnx.families.recognition import HIDDEN_ACTS
from vit2onnx.families.siglip2.architecture import Architecture
from vit2onnx.families.siglip2.interface import MAX_PATCHES
from vit2onnx.spec.texts import EOS, PAD

# What the file of an interface is called, without its ending.
FILES = {"vision": "vision_model", "text": "text_model", "pair": "model"}


def towers(arch: Architecture) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of the image tower and of the text tower, in the words of transformers."""
    common = {"hidden_act": HIDDEN_ACTS[arch.activation], "layer_norm_eps": arch.norm_eps}
    vision = {
        **common,
        "hidden_size": arch.embed_dim,
        "intermediate_size": arch.ffn_hidden,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.num_heads,
        "patch_size": arch.patch_size,
        **({"num_patches": arch.position_grid**2} if arch.is_naflex else {"image_size": arch.image_size}),
    }
    text = {
        **common,
        "hidden_size": arch.text_dim,
        "intermediate_size": arch.text_hidden,
        "num_hidden_layers": arch.text_depth,
        "num_attention_heads": arch.text_heads,
        "vocab_size": arch.vocab_size,
        "max_position_embeddings": arch.text_length,
        "projection_size": arch.projection_dim,
        # Transformers' own are those of another tokenizer, and it warns of them.
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": EOS,
    }
    return vision, text


def config(arch: Architecture) -> dict[str, Any]:
    """The `config.json` of a model: that of transformers' `SiglipConfig`, or `Siglip2Config` for NaFlex.

    Models of one tower have the config of that tower.
    """
    kind = "siglip2" if arch.is_naflex else "siglip"
    library = kind.capitalize()
    names = (f"{kind}_vision_model", f"{kind}_text_model")
    vision, text = ({"model_type": name, **tower} for name, tower in zip(names, towers(arch), strict=True))
    if not arch.text_depth:
        return {"architectures": [f"{library}VisionModel"], **vision}
    if not arch.depth:
        return {"architectures": [f"{library}TextModel"], **text}
    return {"architectures": [f"{library}Model"], "model_type": kind, "text_config": text, "vision_config": vision}


def processor(arch: Architecture) -> dict[str, Any]:
    """The part of `preprocessor_config.json` that no size and no constant decides."""
    if arch.is_naflex:
        of_patches = {"patch_size": arch.patch_size, "max_num_patches": MAX_PATCHES}
        return {"image_processor_type": "Siglip2ImageProcessor", **of_patches}
    return {"image_processor_type": "SiglipImageProcessor"}


def tokenizer_defaults() -> dict[str, Any]:
    """What `tokenizer_config.json` says of Gemma's tokenizer where the user has none."""
    tokens = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk")}
    return {"tokenizer_class": "GemmaTokenizer", **tokens}


def tokenizer_settings(arch: Architecture) -> dict[str, Any]:
    """How `tokenizer_config.json` has texts prepared as in training, but for upper case."""
    return {
        "add_bos_token": False,
        "add_eos_token": True,
        "padding_side": "right",
        "model_max_length": arch.text_length,
    }
