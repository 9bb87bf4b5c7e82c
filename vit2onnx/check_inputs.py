"""Check what is to be given to an ONNX file, because a graph computes and does not check.

    check_inputs(session, {"input_ids": ids, "pixel_values": pixels})

raises an error in one sentence for everything that would give wrong numbers or a message that says little.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from vit2onnx.errors import InputError
from vit2onnx.texts import check_ids

# Types of onnxruntime in numpy's words.
DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64"}


def check_inputs(session: ort.InferenceSession, inputs: Mapping[str, np.ndarray]) -> None:
    """Raise `InputError` if inputs do not fit a graph that vit2onnx has written.

    Names, types and shapes must be those of the graph, and sizes of one name the same everywhere. Numbers must be
    finite, and token ids of the vocabulary. Of patches, the mask and the shapes must say the same.
    """
    ports = {port.name: port for port in session.get_inputs()}
    if missing := [name for name in ports if name not in inputs]:
        raise InputError(f"The file takes {', '.join(ports)}; {', '.join(missing)} is missing.")
    if unknown := [name for name in inputs if name not in ports]:
        raise InputError(f"The file takes {', '.join(ports)}, and no {', '.join(unknown)}; leave it out.")
    sizes: dict[str, tuple[str, int]] = {}
    for name, port in ports.items():
        _check_port(name, inputs[name], DTYPES.get(port.type, port.type), port.shape, sizes)
    about = session.get_modelmeta().custom_metadata_map
    if "input_ids" in inputs and "text" in about:
        check_ids(inputs["input_ids"], json.loads(about["text"])["vocabulary"])
    if "spatial_shapes" in inputs:
        _check_patches(inputs["pixel_attention_mask"], inputs["spatial_shapes"])


def _check_port(name: str, values: Any, dtype: str, shape: list[int | str], sizes: dict[str, tuple[str, int]]) -> None:
    """Check one input. `sizes` has what the sizes of free axes are, and in which input that was seen first."""
    wanted = " x ".join(map(str, shape))
    if not isinstance(values, np.ndarray) or values.dtype != dtype:
        found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"{name} must be {dtype} [{wanted}] and is {found}; convert it.")
    found = " x ".join(map(str, values.shape))
    fits = len(values.shape) == len(shape) and all(
        isinstance(a, str) or a == b for a, b in zip(shape, values.shape, strict=False)
    )
    if not fits or 0 in values.shape:
        raise InputError(f"{name} must be {wanted} and is {found}; prepare it for this file.")
    for axis, size in zip(shape, values.shape, strict=True):
        if isinstance(axis, str):
            first, before = sizes.setdefault(axis, (name, size))
            if size != before:
                raise InputError(f"{axis} is {before} in {first} and {size} in {name}; it must be the same.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name} holds values that are not finite; prepare it once more.")


def _check_patches(mask: np.ndarray, shapes: np.ndarray) -> None:
    """Whether the mask has as many patches as the shapes say, all before the padding."""
    if shapes.min() < 1:
        raise InputError(f"spatial_shapes hold {int(shapes.min())}; every image has at least one row and one column.")
    counts, patches = shapes.prod(axis=1), mask.shape[1]
    if counts.max() > patches:
        raise InputError(f"spatial_shapes say {int(counts.max())} patches, and there are {patches}; make them fit.")
    if not np.array_equal(mask, np.arange(patches) < counts[:, None]):
        raise InputError(
            "pixel_attention_mask must be 1 for the patches that spatial_shapes say, then 0; make it anew."
        )
