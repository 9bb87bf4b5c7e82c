"""The numbers that the constants of an ONNX file stand for, in double precision.

A scalar was rounded to single precision from the number that was meant. Another constant was computed when the graph
was exported, because it depends on parameters and not on the input. How stands under COMPUTED in the file's metadata,
as a graph in ONNX's own text, which holds those parameters. So what the file holds can be proved to be nothing but the
rounding of what that graph computes in double precision.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.numpy_helper import from_array, to_array
from onnx.reference import ReferenceEvaluator

from vit2onnx.errors import InputError
from vit2onnx.onnx_file import Initializer, initializers, metadata

COMPUTED = "computed"


def meant(value: float) -> float:
    """The number that was rounded to a single-precision constant: 2 pi, or the shortest decimal."""
    rounded = np.float32(value)
    return 2 * np.pi if rounded == np.float32(2 * np.pi) else float(str(rounded))


def widen_constants(graph: onnx.GraphProto) -> None:
    """Make double precision of all that a graph holds besides weights: constants, and the casts to single precision.

    A weight is single precision; a scalar was rounded to it from the number that was meant.
    """
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in (*graph.initializer, *(one.t for one in attributes if one.HasField("t"))):
        if tensor.data_type == TensorProto.FLOAT:
            values = to_array(tensor)
            wide = values.astype(np.float64) if values.ndim else np.float64(meant(float(values)))
            tensor.CopyFrom(from_array(np.asarray(wide), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.DOUBLE


def read(place: Initializer) -> np.ndarray:
    """The values of a single-precision initializer."""
    return np.fromfile(place.file, "<f4", place.nbytes // 4, offset=place.offset).reshape(place.shape)


def compute(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """What a graph without inputs computes in double precision, by name."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    widen_constants(wide.graph)
    return dict(zip((value.name for value in wide.graph.output), ReferenceEvaluator(wide).run(None, {}), strict=True))


def origin_of_constants(path: Path) -> onnx.ModelProto | None:
    """The graph that computes the constants of an ONNX file; none if the file has no such constants.

    Raises `InputError` if the file does not tell it well.
    """
    text = metadata(path).get(COMPUTED)
    try:
        return None if text is None else onnx.parser.parse_model(text)
    except onnx.parser.ParseError:
        raise InputError(f"{path}: its metadata {COMPUTED} is damaged; delete the file and run again.") from None


def computed_constants(path: Path) -> Mapping[str, np.ndarray]:
    """Constants of an ONNX file in double precision, by name, as the file says that they were computed.

    A file of small precision has some of them in that precision instead, which are left out. Raises `InputError` if the
    file does not hold the roundings of the others.
    """
    origin, held = origin_of_constants(path), initializers(path)
    is_single = metadata(path).get("precision", "float32") == "float32"
    found = compute(origin) if origin else {}
    found = {name: exact for name, exact in found.items() if is_single or name in held}
    for name, exact in found.items():
        if name not in held or held[name].shape != exact.shape or not _is_rounding(read(held[name]), exact):
            raise InputError(f"{path}: the constant {name} is not what its origin computes; export the graph again.")
    return found


def _is_rounding(values: np.ndarray, exact: np.ndarray) -> bool:
    """Whether all values are the nearest in single precision, as far as double precision can tell."""
    half = np.spacing(np.abs(exact.astype(np.float32))) / 2
    return bool(np.all(np.abs(values - exact) <= half + 2.0**-50 * np.abs(exact).max()))
