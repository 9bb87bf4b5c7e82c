"""How a ConvNeXt of DINOv3 is recognised. Standard library only: the Snakefile imports this module."""

from collections.abc import Mapping
from typing import Any

from vit2onnx.families.recognition import Shapes, activation_of, count

# Tensors whose names mark a backbone of this family, and the `model_type` of transformers' configs.
MARKS = (
    "downsample_layers.0.0.weight",
    "stages.0.downsample_layers.0.weight",
    "model.stages.0.downsample_layers.0.weight",
    "stem.0.weight",
)
MODEL_TYPES = ("dinov3_convnext",)

# By layout: a tensor that it must have, the stem, the convolution between stages, and a block's scale.
LAYOUTS = {
    "meta": ("norm.weight", "downsample_layers.0.0", "downsample_layers.{i}.1", r"stages\.{i}\.(\d+)\.gamma"),
    "huggingface": (
        "layer_norm.weight",
        "stages.0.downsample_layers.0",
        "stages.{i}.downsample_layers.1",
        r"stages\.{i}\.layers\.(\d+)\.gamma",
    ),
    "huggingface5": (
        "layer_norm.weight",
        "model.stages.0.downsample_layers.0",
        "model.stages.{i}.downsample_layers.1",
        r"model\.stages\.{i}\.layers\.(\d+)\.gamma",
    ),
    "timm": ("head.norm.weight", "stem.0", "stages.{i}.downsample.1", r"stages\.{i}\.blocks\.(\d+)\.gamma"),
}


def recognise(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    """Layout and architecture, as far as names and shapes show them; `None` if it is of another family.

    Any `KeyError`, `IndexError`, `ValueError` or `ZeroDivisionError` means the same.
    """
    for layout, (norm, stem, downsample, block) in LAYOUTS.items():
        if norm in shapes and f"{stem}.weight" in shapes:
            widths = [shapes[f"{stem}.weight"][0]]
            while (name := f"{downsample.format(i=len(widths))}.weight") in shapes:
                widths.append(shapes[name][0])
            depths = [count(shapes, block.replace("{i}", str(index))) for index in range(len(widths))]
            if all(depths):
                return layout, {"embed_dims": widths, "depths": depths}
    return None


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture, as far as a config of transformers gives it, with that library's defaults."""
    return {
        "embed_dims": config.get("hidden_sizes") or [96, 192, 384, 768],
        "depths": config.get("depths") or [3, 3, 9, 3],
        "norm_eps": config.get("layer_norm_eps", 1e-6),
        "activation": activation_of(config, "gelu"),
    }


def assume(_: Mapping[str, Any], release: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of the architecture, as in a release."""
    return {"norm_eps": release["norm_eps"], "activation": "gelu"}
