"""Check what is to be given to an ONNX file, because a graph computes and does not check.

    check_inputs(session, {"input_ids": ids, "pixel_values": pixels})

raises an error in one sentence for what can be seen to be wrong. docs/siglip2.md lists what it cannot see.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from vit2onnx.errors import InputError
from vit2onnx.packing import check
from vit2onnx.spec.texts import EOS, PAD
from vit2onnx.texts import check_ids

# The id that begins texts of other models with Gemma's tokenizer.
BOS = 2
# How far a pixel may be beyond black and white, in [0, 1]: half a grey level. A bicubic filter goes further where
# it does not round to grey levels.
MARGIN, BICUBIC_MARGIN = 0.5 / 255, 0.3
# Types of onnxruntime in numpy's words.
DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}


def check_inputs(session: ort.InferenceSession, inputs: Mapping[str, np.ndarray]) -> None:
    """Raise `InputError` if inputs do not fit a graph that vit2onnx has written.

    Values must be numpy arrays and no subclass. Names, types and shapes must be those of the graph, and sizes of one
    name the same everywhere. `pixel_attention_mask` and `spatial_shapes` must describe the same patches, and
    `pixel_values` must hold those that `grid_thw` describes. Numbers must be finite, and pixels within the range of the
    file's normalisation, channel by channel; patches behind the mask may have any finite numbers. Token ids must be of
    the vocabulary. If the file says how a text ends, its ids must not begin with `<bos>`, and must end with `<eos>` and
    be filled up on the right with `<pad>`.
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
        said = json.loads(about["text"])
        check_ids(inputs["input_ids"], said["vocabulary"])
        if "end" in said:
            _check_texts(inputs["input_ids"])
    if "spatial_shapes" in inputs:
        _check_patches(inputs["pixel_attention_mask"], inputs["spatial_shapes"])
    if "grid_thw" in inputs and "tokens" in about:
        check(inputs["pixel_values"], inputs["grid_thw"], json.loads(about["tokens"])["patch_size"])
    if "pixel_values" in inputs and "preprocessing" in about:
        mask = inputs.get("pixel_attention_mask")
        _check_range(inputs["pixel_values"], mask, json.loads(about["preprocessing"]))


def _check_port(name: str, values: Any, dtype: str, shape: list[int | str], sizes: dict[str, tuple[str, int]]) -> None:
    """Check one input. `sizes` has what the sizes of free axes are, and in which input that was seen first."""
    wanted = " x ".join(map(str, shape))
    # No subclass: a masked array would hide values, which the graph sees.
    is_array = type(values) is np.ndarray
    if not is_array or values.dtype != dtype:
        found = values.dtype if is_array else type(values).__name__
        way = "convert it" if is_array else "give a plain numpy.ndarray"
        raise InputError(f"{name} must be {dtype} [{wanted}] and is {found}; {way}.")
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


def _check_range(pixels: np.ndarray, mask: np.ndarray | None, how: Mapping[str, Any]) -> None:
    """Whether each channel lies where that of a photograph does, which is 0 to 1 before it is normalised."""
    shown = pixels if mask is None else pixels[mask == 1]
    # Images have channels second. Patches have them innermost, so they are every third value.
    images = shown if shown.ndim == 4 else shown.reshape(-1, 3)
    margin = BICUBIC_MARGIN if how["interpolation"] == "bicubic" else MARGIN
    for place, (mean, std) in enumerate(zip(how["mean"], how["std"], strict=True)):
        least, most = float(images[:, place].min()), float(images[:, place].max())
        if least * std + mean < -margin or most * std + mean > 1 + margin:
            raise InputError(
                f"Channel {place} of pixel_values is {least:.4g} to {most:.4g}, and this file takes"
                f" {(0 - mean) / std:.4g} to {(1 - mean) / std:.4g}; divide grey levels by 255, subtract {mean}, and"
                f" divide by {std}."
            )


def _check_texts(ids: np.ndarray) -> None:
    """Whether each text is its tokens, then the one that ends it, then padding."""
    for number, row in enumerate(ids):
        length = np.flatnonzero(row != PAD).max(initial=-1) + 1
        if fault := _fault_of(row[:length].tolist(), len(row)):
            raise InputError(f"Text {number} of input_ids {fault}.")


def _fault_of(text: list[int], places: int) -> str | None:
    """What is wrong with the ids of a text before its padding, and the way out."""
    if not text:
        return f"is <pad> ({PAD}) only; give an empty text as <eos> ({EOS}), then <pad>"
    if text[0] == PAD:
        return f"begins with <pad> ({PAD}); fill it up on the right"
    if text[0] == BOS:
        return f"begins with <bos> ({BOS}); leave it out"
    if PAD in text:
        return f"has <pad> ({PAD}) between its tokens; fill it up on the right only"
    if text[-1] != EOS:
        return f"does not end with <eos> ({EOS}); append it, or cut the text and put it last"
    # Fewer, before <pad>, are of a text that ends with "<eos>" itself.
    if len(text) == places and text[-2:] == [EOS, EOS]:
        return f"is filled up with <eos> ({EOS}); fill it up with <pad> ({PAD})"
    return None


def _check_patches(mask: np.ndarray, shapes: np.ndarray) -> None:
    """Whether the mask has as many patches as the shapes say, all before the padding."""
    if shapes.min() < 1:
        raise InputError(f"spatial_shapes hold {int(shapes.min())}; every image has at least one row and one column.")
    # Products of Python's integers do not wrap around.
    counts, patches = [rows * columns for rows, columns in shapes.tolist()], mask.shape[1]
    if max(counts) > patches:
        raise InputError(f"spatial_shapes say {max(counts)} patches, and there are {patches}; make them fit.")
    if not np.array_equal(mask, np.arange(patches) < np.array(counts)[:, None]):
        raise InputError(
            "pixel_attention_mask must be 1 for the patches that spatial_shapes say, then 0; make it anew."
        )
