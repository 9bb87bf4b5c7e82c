"""Inputs to try a graph with: those of its sample, or made from what the file says of its inputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from vit2onnx.arrays import Arrays as File
from vit2onnx.errors import InputError
from vit2onnx.onnx_file import described, sample_beside
from vit2onnx.spec.texts import random_ids
from vit2onnx.texts import text_input

Arrays = Mapping[str, np.ndarray]
# Sizes of free axes in the first and in the second set of inputs, unlike each other; heights and widths in patches.
SIZES: Mapping[str, tuple[int, int]] = {
    **{"batch": (1, 2), "images": (2, 3), "texts": (3, 2), "length": (9, 17), "patches": (28, 21)},
    **{"photograph_height": (97, 40), "photograph_width": (131, 24)},
}
IN_PATCHES: Mapping[str, tuple[int, int]] = {"height": (4, 7), "width": (6, 3)}
OTHER = (3, 5)
# Grids of patches in the first and in the second set; an image has no more patches than its place.
GRIDS = (((4, 6), (5, 3), (7, 4)), ((7, 3), (2, 5), (3, 7)))
# What is assumed if the file does not say it.
PATCH_SIZE, VOCABULARY = 16, 1000


@dataclass(frozen=True)
class Port:
    """An input or output of a graph, with numbers for fixed sizes and names for free ones."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def ports_of(graph: Path) -> tuple[list[Port], list[Port]]:
    """The inputs and outputs of an ONNX file. Raises `InputError` if it is none."""
    try:
        model = onnx.load(graph, load_external_data=False)
    # Any exception, because what is raised depends on the bytes.
    except Exception as error:
        raise InputError(f"{graph} is no ONNX file ({error}); name files that are.") from error
    weights = {one.name for one in model.graph.initializer}
    return _ports(one for one in model.graph.input if one.name not in weights), _ports(model.graph.output)


def _ports(values: Iterable[Any]) -> list[Port]:
    return [
        Port(
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(size.dim_value or size.dim_param or "?" for size in value.type.tensor_type.shape.dim),
        )
        for value in values
    ]


def sets_for(graph: Path, ports: Sequence[Port]) -> list[Arrays]:
    """One set of inputs for a graph of fixed sizes, two of different sizes for others.

    The first is of the graph's sample, if that lies beside it and fits.
    """
    about = described(graph)
    first = _of_sample(graph, ports) or made(ports, about, 0)
    is_free = any(isinstance(size, str) for port in ports for size in port.shape)
    return [first, made(ports, about, 1)] if is_free else [first]


def _of_sample(graph: Path, ports: Sequence[Port]) -> Arrays | None:
    """The first case of a graph's sample, repeated to the batch of the graph; `None` if there is none."""
    path = sample_beside(graph)
    if not path.is_file():
        return None
    with File(path) as arrays:
        first = f"{ports[0].name}/"
        case = next((name.removeprefix(first) for name in arrays if name.startswith(first)), "")
        if not all(f"{port.name}/{case}" in arrays for port in ports):
            return None
        found = {port.name: arrays[f"{port.name}/{case}"] for port in ports}
    # A case is one of a batch, or a batch by itself.
    if all(array.ndim < len(port.shape) for port, array in zip(ports, found.values(), strict=True)):
        size = ports[0].shape[0]
        found = {name: np.repeat(array[None], size if isinstance(size, int) else 1, 0) for name, array in found.items()}
    return found


def made(ports: Sequence[Port], about: Mapping[str, Any], number: int) -> Arrays:
    """The set of inputs of a number, 0 or 1; always the same. `about` is what the file's metadata say."""
    generator = np.random.default_rng(number)
    patch_size = _said(about, "tokens").get("patch_size", PATCH_SIZE)
    shapes = {port.name: tuple(_size(axis, patch_size, number) for axis in port.shape) for port in ports}
    if "grid_thw" in shapes:
        return _packed(ports, shapes, about, patch_size, number, generator)
    found = {port.name: _values(port, shapes[port.name], about, generator) for port in ports}
    if "spatial_shapes" in found:
        images, patches = shapes["pixel_attention_mask"]
        grids = [GRIDS[number][place % 3] for place in range(images)]
        found["spatial_shapes"] = np.array([(h, w) if h * w <= patches else (1, patches) for h, w in grids], np.int64)
        counts = found["spatial_shapes"].prod(1)
        found["pixel_attention_mask"] = (np.arange(patches) < counts[:, None]).astype(np.int32)
    return found


def _said(about: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What a file of vit2onnx says of something; in other files the key may mean anything."""
    found = about.get(key)
    return found if isinstance(found, dict) else {}


def _size(axis: int | str, patch_size: int, number: int) -> int:
    if isinstance(axis, int):
        return axis
    return IN_PATCHES[axis][number] * patch_size if axis in IN_PATCHES else SIZES.get(axis, OTHER)[number]


def _packed(
    ports: Sequence[Port],
    shapes: Mapping[str, tuple[int, ...]],
    about: Mapping[str, Any],
    patch_size: int,
    number: int,
    generator: np.random.Generator,
) -> Arrays:
    """Images of several grids in one pack, or of one patch each and one long one if the number of patches is fixed."""
    ports_by_name = {port.name: port for port in ports}
    images = shapes["grid_thw"][0]
    grids = [(1, *GRIDS[number][place % 3]) for place in range(images)]
    rows = ports_by_name["pixel_values"].shape[0]
    if isinstance(rows, int):
        grids = [(1, 1, 1)] * (images - 1) + [(1, 1, rows - images + 1)]
    patches = sum(height * width for _, height, width in grids)
    shape = (patches, *shapes["pixel_values"][1:])
    return {
        name: np.array(grids, np.int64) if name == "grid_thw" else _values(port, shape, about, generator)
        for name, port in ports_by_name.items()
    }


def _values(port: Port, shape: tuple[int, ...], about: Mapping[str, Any], generator: np.random.Generator) -> np.ndarray:
    if port.name == "input_ids":
        vocabulary = _said(about, "text").get("vocabulary", VOCABULARY)
        length = max(shape[1] - 2, 1)
        rows = [random_ids(f"text {row}", length, vocabulary) for row in range(shape[0])]
        return np.stack([text_input(row, shape[1]) for row in rows]).astype(port.dtype)
    if port.dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    if not port.dtype.startswith("float"):
        return np.ones(shape, port.dtype)
    if port.name != "pixel_values":
        return generator.standard_normal(shape).astype(port.dtype)
    how = {"mean": [0.5] * 3, "std": [0.5] * 3, **_said(about, "preprocessing")}
    # Images have channels second. Patches have them innermost.
    image_like = (1, 3, 1, 1) if len(shape) == 4 else (3,)
    mean, std = (np.array(how[key], np.float32).reshape(image_like) for key in ("mean", "std"))
    levels = generator.random(shape if len(shape) == 4 else (*shape[:-1], shape[-1] // 3, 3), np.float32)
    return ((levels - mean) / std).reshape(shape).astype(port.dtype)
