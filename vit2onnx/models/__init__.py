"""Inference models in export shape: one module per family, layers and primitives shared."""

from collections.abc import Callable
from typing import Any

from vit2onnx.models import dinov3_convnext, dinov3_vit
from vit2onnx.models.dinov3_convnext import Dinov3ConvNeXt
from vit2onnx.models.dinov3_vit import Dinov3ViT
from vit2onnx.models.features import Features
from vit2onnx.variants import Architecture

Model = Dinov3ViT | Dinov3ConvNeXt

BUILDERS: dict[str, Callable[[Any], Model]] = {
    "dinov3_vit": dinov3_vit.build,
    "dinov3_convnext": dinov3_convnext.build,
}


def build(family: str, architecture: Architecture) -> Model:
    """The model of a family, every parameter a `jax.ShapeDtypeStruct`."""
    return BUILDERS[family](architecture)


__all__ = ["Features", "Model", "build"]
