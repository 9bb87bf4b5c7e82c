"""Images of any sizes in one call of a packed graph. These names need numpy only."""

from vit2onnx.packing.arrays import ImageFeatures, check, frames, native_size, pack, unpack

__all__ = ["ImageFeatures", "check", "frames", "native_size", "pack", "unpack"]
