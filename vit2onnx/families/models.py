"""Inference models in export shape: one module per family, layers and primitives shared."""

from collections.abc import Callable
from typing import Any

from vit2onnx.families.dinov3_convnext import model as dinov3_convnext
from vit2onnx.families.dinov3_convnext.model import Dinov3ConvNeXt
from vit2onnx.families.dinov3_vit import model as dinov3_vit
from vit2onnx.families.dinov3_vit.model import Dinov3ViT
from vit2onnx.nn.features import Features
from vit2onnx.spec.variant import Architecture

Model = Dinov3ViT | Dinov3ConvNeXt

BUILDERS: dict[str, Callable[[Any], Model]] = {
    "dinov3_vit": dinov3_vit.build,
    "dinov3_convnext": dinov3_convnext.build,
}


def build(family: str, architecture: Architecture) -> Model:
    """The model of a family, every parameter a `jax.ShapeDtypeStruct`."""
    return BUILDERS[family](architecture)


__all__ = ["Features", "Model", "build"]
