"""How a SigLIP2 is recognised, whole or one tower of it. Standard library only: the Snakefile imports this module.

SigLIP models of the first version have the same layout.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from vit2onnx.errors import InputError
from vit2onnx.families.recognition import Shapes, Tower, activation_of, count, number_of_heads, square
from vit2onnx.families.siglip2.interface import VOCABULARY

PATCHES, TOKENS = "embeddings.patch_embedding.weight", "embeddings.token_embedding.weight"
VISION, TEXT = "vision_model.", "text_model."
FLAX_VISION, FLAX_TEXT = "params/img/", "params/txt/"
# timm's image tower, which is refused by name.
TIMM = "attn_pool.latent"
# Tensors whose names mark a backbone of this family, and the `model_type` of transformers' configs.
MARKS = (
    f"{VISION}{PATCHES}",
    f"{TEXT}{TOKENS}",
    PATCHES,
    TOKENS,
    f"{FLAX_VISION}embedding/kernel",
    f"{FLAX_TEXT}Embed_0/embedding",
    TIMM,
)
# Tensors that only a model of both towers has, and the names that such a model has.
JOINT = ("logit_scale", "logit_bias", "params/t", "params/b")
OF_WHOLE = rf"{VISION}|{TEXT}|{FLAX_VISION}|{FLAX_TEXT}|({'|'.join(JOINT)})$"
# By layout: prefixes that the names of a tower keep if it is saved alone.
KEPT_PREFIXES = {"big_vision": (FLAX_VISION, FLAX_TEXT)}
OF_BOTH = ("siglip", "siglip2")
OF_VISION = ("siglip_vision_model", "siglip2_vision_model")
OF_TEXT = ("siglip_text_model", "siglip2_text_model")
MODEL_TYPES = (*OF_BOTH, *OF_VISION, *OF_TEXT)

OF_IMAGES = ("depth", "embed_dim", "num_heads", "ffn_hidden", "patch_size", "image_size", "position_grid")
OF_TEXTS = ("text_depth", "text_dim", "text_heads", "text_hidden", "text_length", "vocab_size")
TOWERS = {
    "image tower": Tower(VISION, OF_IMAGES, takes_images=True),
    "text tower": Tower(TEXT, OF_TEXTS, takes_images=False),
}
NO_VISION, NO_TEXT = (dict.fromkeys(tower.fields, 0) for tower in TOWERS.values())


def assumes_texts(architecture: Mapping[str, Any]) -> bool:
    """Whether texts are taken to be prepared as for the releases, because the vocabulary is of the same size."""
    return bool(architecture.get("text_depth")) and architecture["vocab_size"] == VOCABULARY


def processor_keys(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of an image processor of NaFlex, with the value that each must have. How many patches, the user decides."""
    if architecture.get("image_size") != 0 or not architecture.get("depth"):
        return {}
    return {"patch_size": architecture["patch_size"], "max_num_patches": None}


def recognise(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    """Layout and architecture, as far as names and shapes show them; `None` if it is of another family.

    Raises `InputError` if a tensor that is needed for that is missing or has another shape.
    """
    try:
        return _recognised(shapes)
    except KeyError as error:
        raise InputError(f"it lacks {error.args[0]}, which every SigLIP has") from None
    except (IndexError, ValueError, ZeroDivisionError):
        raise InputError("its tables, patches or layers have shapes that no SigLIP has") from None


def _recognised(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    image, text = _begun(shapes, FLAX_VISION, FLAX_TEXT)
    if image or text:
        _check_joint(shapes, image, text)
        return "big_vision", _joined(_flax_vision(shapes) if image else {}, _flax_text(shapes) if text else {})
    if TIMM in shapes:
        raise InputError(
            "it is an image tower in the layout of timm and OpenCLIP, which is not read; give the model as its"
            " publisher offers it on Hugging Face"
        )
    image, text = _begun(shapes, VISION, TEXT)
    if image and text:
        return "huggingface", _joined(_vision(shapes, VISION), _text(shapes, TEXT))
    if image or text:
        # A tower alone is recognised at the prefix where its own names begin.
        _check_joint(shapes, image, text)
        return None
    image, text = PATCHES in shapes, TOKENS in shapes
    if image == text:
        return None
    _check_joint(shapes, image, text)
    return "huggingface", _joined(_vision(shapes), {}) if image else _joined({}, _text(shapes))


def _begun(shapes: Shapes, *prefixes: str) -> tuple[bool, ...]:
    """Of each prefix, whether a name begins with it."""
    return tuple(any(name.startswith(prefix) for name in shapes) for prefix in prefixes)


def _check_joint(shapes: Shapes, image: bool, text: bool) -> None:
    """Raise `InputError` if one tower is there, and something that only a model of both has."""
    if image != text and (joint := next((name for name in JOINT if name in shapes), "")):
        other = "a text tower" if image else "an image tower"
        raise InputError(
            f"it holds {joint}, which only a model of both towers has, but nothing of {other}; give the whole file, or"
            f" one without {joint}"
        )


def _joined(vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """The architecture of what there is of two towers. A text tower says in which width both end."""
    return {"projection_dim": vision.get("embed_dim"), **(vision or NO_VISION), **(text or NO_TEXT)}


def _vision(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    if f"{prefix}embeddings.class_embedding" in shapes:
        raise InputError(
            f"its image tower has {prefix}embeddings.class_embedding, which CLIP models have and SigLIP models do not"
        )
    if f"{prefix}head.probe" not in shapes:
        raise InputError(
            f"its image tower lacks {prefix}head.probe and so gives no embedding; give one that has its pooling head"
        )
    kernel = shapes[f"{prefix}{PATCHES}"]
    rows, embed_dim = shapes[f"{prefix}embeddings.position_embedding.weight"]
    return {
        **_encoder(shapes, f"{prefix}encoder.layers.", "depth", "ffn_hidden"),
        "embed_dim": embed_dim,
        "patch_size": kernel[2] if len(kernel) == 4 else _side(kernel[1]),
        "position_grid": square(rows),
        # The size of others does not show, because pixels beyond the last whole patch are dropped.
        **({} if len(kernel) == 4 else {"image_size": 0}),
    }


def _text(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    vocab_size, text_dim = shapes[f"{prefix}{TOKENS}"]
    return {
        **_encoder(shapes, f"{prefix}encoder.layers.", "text_depth", "text_hidden"),
        "text_dim": text_dim,
        "text_length": shapes[f"{prefix}embeddings.position_embedding.weight"][0],
        "vocab_size": vocab_size,
        "projection_dim": shapes[f"{prefix}head.weight"][0],
    }


def _encoder(shapes: Shapes, layers: str, depth: str, hidden: str) -> dict[str, Any]:
    return {
        depth: count(shapes, rf"{re.escape(layers)}(\d+)\."),
        hidden: shapes[f"{layers}0.mlp.fc1.weight"][0],
    }


def _flax_vision(shapes: Shapes) -> dict[str, Any]:
    kernel, positions = shapes[f"{FLAX_VISION}embedding/kernel"], shapes[f"{FLAX_VISION}pos_embedding"]
    is_naflex = len(kernel) == 2
    # Without it, embeddings are made in another way.
    _ = shapes[f"{FLAX_VISION}MAPHead_0/probe"]
    return {
        **_flax_encoder(shapes, f"{FLAX_VISION}Transformer/encoderblock_", ("depth", "num_heads", "ffn_hidden")),
        "embed_dim": kernel[-1],
        "patch_size": _side(kernel[0]) if is_naflex else kernel[0],
        "position_grid": positions[0] if is_naflex else square(positions[1]),
        **({"image_size": 0} if is_naflex else {}),
    }


def _flax_text(shapes: Shapes) -> dict[str, Any]:
    vocab_size, text_dim = shapes[f"{FLAX_TEXT}Embed_0/embedding"]
    keys = "text_depth", "text_heads", "text_hidden"
    return {
        **_flax_encoder(shapes, f"{FLAX_TEXT}Encoder_0/encoderblock_", keys),
        "text_dim": text_dim,
        "text_length": shapes[f"{FLAX_TEXT}pos_embedding"][1],
        "vocab_size": vocab_size,
        "projection_dim": shapes[f"{FLAX_TEXT}head/kernel"][1],
    }


def _flax_encoder(shapes: Shapes, layers: str, keys: tuple[str, str, str]) -> dict[str, Any]:
    depth, heads, hidden = keys
    return {
        depth: count(shapes, rf"{layers}(\d+)/"),
        heads: shapes[f"{layers}0/MultiHeadDotProductAttention_0/query/kernel"][1],
        hidden: shapes[f"{layers}0/MlpBlock_0/Dense_0/kernel"][1],
    }


def _side(values: int) -> int:
    """The side of a square patch of so many values in three channels."""
    side = math.isqrt(values // 3)
    if 3 * side * side != values:
        raise ValueError(f"{values} values are no square patch of three channels")
    return side


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture, as far as a config of transformers gives it, with that library's defaults."""
    kind = config.get("model_type")
    vision = config if kind in OF_VISION else config.get("vision_config") or {}
    text = config if kind in OF_TEXT else config.get("text_config") or {}
    parts = ([] if kind in OF_TEXT else [vision]) + ([] if kind in OF_VISION else [text])
    if not all(isinstance(part, Mapping) for part in parts):
        raise InputError("config.json holds no mapping of values for each tower")
    found = {"norm_eps": {part.get("layer_norm_eps", 1e-6) for part in parts}}
    found["activation"] = {activation_of(part, "gelu_pytorch_tanh") for part in parts}
    for key, values in found.items():
        if len(values) > 1:
            both = " and ".join(sorted(map(str, values)))
            raise InputError(f"config.json says {key} {both} for its two towers, but models here have one")
    width = text.get("projection_size") or text.get("hidden_size", 768)
    return {
        "projection_dim": vision.get("hidden_size", 768) if kind in OF_VISION else width,
        **{key: next(iter(values)) for key, values in found.items()},
        **(NO_VISION if kind in OF_TEXT else _vision_config(vision, is_naflex=str(kind).startswith("siglip2"))),
        **(NO_TEXT if kind in OF_VISION else _text_config(text)),
    }


def _vision_config(config: Mapping[str, Any], *, is_naflex: bool) -> dict[str, Any]:
    if config.get("num_channels", 3) != 3:
        raise InputError(f"config.json says num_channels {config['num_channels']}, but models here have 3")
    if config.get("vision_use_head", True) is not True:
        raise InputError("config.json says vision_use_head false, but models here have this head")
    patch_size, image_size = config.get("patch_size", 16), config.get("image_size", 224)
    if not all(isinstance(size, int) and size > 0 for size in (patch_size, image_size)):
        raise InputError(
            f"config.json says image_size {image_size} and patch_size {patch_size}; both must be one number"
        )
    return {
        "embed_dim": config.get("hidden_size", 768),
        "depth": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "ffn_hidden": config.get("intermediate_size", 3072),
        "patch_size": patch_size,
        "image_size": 0 if is_naflex else image_size,
        "position_grid": square(config.get("num_patches", 256)) if is_naflex else image_size // patch_size,
    }


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "text_dim": config.get("hidden_size", 768),
        "text_depth": config.get("num_hidden_layers", 12),
        "text_heads": config.get("num_attention_heads", 12),
        "text_hidden": config.get("intermediate_size", 3072),
        "text_length": config.get("max_position_embeddings", 64),
        "vocab_size": config.get("vocab_size", 32000),
    }


def assume(seen: Mapping[str, Any], release: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of the architecture, as in a release."""
    found = {"norm_eps": release["norm_eps"], "activation": "gelu_tanh"}
    for width, heads in (("embed_dim", "num_heads"), ("text_dim", "text_heads")):
        if heads not in seen:
            usual = {"embed_dim": release[width], "num_heads": release[heads]}
            found[heads] = number_of_heads(seen[width], usual)
    if "image_size" not in seen:
        size = release.get("image_size", 0)
        fits = (size // seen["patch_size"], release["patch_size"]) == (seen["position_grid"], seen["patch_size"])
        found["image_size"] = size if fits else seen["position_grid"] * seen["patch_size"]
    return found
