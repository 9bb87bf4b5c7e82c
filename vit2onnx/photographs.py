"""Photographs as graphs take them that prepare them: uint8 RGB [height, width, 3], of any size."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, UInt8

from vit2onnx.errors import InternalError
from vit2onnx.images import crop_start, normalise
from vit2onnx.spec.interface import Interface
from vit2onnx.spec.variant import Preprocessing


def normalised_levels(preprocessing: Preprocessing) -> Float32[np.ndarray, "3 256"]:
    """The number that a model is given for each grey level of each channel, to the bit."""
    levels = np.broadcast_to(np.arange(256, dtype=np.float32), (3, 1, 256))
    return normalise(levels * np.float32(1 / 255), preprocessing)[:, 0]


def photograph_of(
    pixel_values: Float32[np.ndarray, "3 height width"], preprocessing: Preprocessing
) -> UInt8[np.ndarray, "whole_height whole_width 3"]:
    """The photograph of which `images.preprocess` makes a model's input without resampling it.

    It has the input's size. With `crop_pct` it is the whole of which the input is the middle; around that, the edge is
    repeated. Raises `InternalError` if the input was not made of grey levels.
    """
    found = []
    for values, table in zip(pixel_values, normalised_levels(preprocessing), strict=True):
        levels = np.searchsorted(table, values).clip(0, 255)
        if not np.array_equal(table[levels], values):
            raise InternalError("these pixels are not of grey levels, so there is no photograph of them")
        found.append(levels.astype(np.uint8))
    size = pixel_values.shape[1:]
    whole = size if preprocessing.crop_pct is None else tuple(round(side / preprocessing.crop_pct) for side in size)
    before = [crop_start(*sides) for sides in zip(whole, size, strict=True)]
    around = [(first, all_ - first - own) for first, all_, own in zip(before, whole, size, strict=True)]
    return np.pad(np.stack(found, axis=-1), [*around, (0, 0)], mode="edge")


def given_to(interface: Interface, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """What a graph is given for a case without batch, from its `inputs` in the interface on whose cases it is compared.

    That is a photograph, if the graph prepares photographs itself, or else the inputs as they are.
    """
    if interface.prepares is None or interface.preprocessing is None:
        return inputs
    (image,), (port,) = interface.prepares.inputs, interface.inputs
    return {port.name: photograph_of(inputs[image.name], interface.preprocessing)}
