"""From photographs to features by an ONNX file."""

from vit2onnx.features.packed import Packed

__all__ = ["Packed"]
