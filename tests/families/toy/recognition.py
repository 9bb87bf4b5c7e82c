"""How a toy is recognised."""

from collections.abc import Mapping
from typing import Any

from vit2onnx.families.recognition import Shapes, count

MARKS = ("blocks.0.mlp.fc1.weight",)
MODEL_TYPES = ()


def recognise(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    if "blocks.0.norm.weight" not in shapes:
        return None
    embed_dim, _, patch_size, _ = shapes["patch_embed.weight"]
    return "toy", {"embed_dim": embed_dim, "depth": count(shapes, r"blocks\.(\d+)\."), "patch_size": patch_size}


def read_config(_: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def assume(_seen: Mapping[str, Any], _release: Mapping[str, Any]) -> dict[str, Any]:
    return {}
