"""Inference models in export shape: one module per family, layers and primitives shared."""

from vit2onnx.models.dinov3_vit import Dinov3ViT, Features
from vit2onnx.models.dinov3_vit import build as _build_dinov3_vit
from vit2onnx.variants import ViTArchitecture

Model = Dinov3ViT

_BUILDERS = {"dinov3_vit": _build_dinov3_vit}


def build(family: str, architecture: ViTArchitecture) -> Model:
    """The model of a family, every parameter a `jax.ShapeDtypeStruct`."""
    return _BUILDERS[family](architecture)


__all__ = ["Features", "Model", "build"]
