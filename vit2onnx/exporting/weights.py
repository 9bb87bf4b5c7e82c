"""Write an ONNX file with weights that are never all in memory.

A protobuf message is built in memory as a whole, and so would be the weights. But it is a plain sequence of fields
whose lengths are known beforehand, so the large ones can be written by hand, between the others that the library makes.
Source: protobuf.dev/programming-guides/encoding.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import onnx

from vit2onnx.checksums import sha256_of
from vit2onnx.errors import InputError, InternalError
from vit2onnx.onnx_file import checksum_entry
from vit2onnx.weights.header import ALIGNMENT
from vit2onnx.weights.keytable import LazyTensor

# Field numbers of onnx.proto.
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = (
    onnx.ModelProto.GRAPH_FIELD_NUMBER,
    onnx.GraphProto.INITIALIZER_FIELD_NUMBER,
    onnx.TensorProto.RAW_DATA_FIELD_NUMBER,
)


# What protobuf can read.
MOST_BYTES = 2**31 - 1


def write_external(path: Path, model: onnx.ModelProto, tensors: Mapping[str, LazyTensor], location: str) -> None:
    """Write a model whose initializers are to be read from the file `location` beside it, where the tensors lie.

    Raises `InternalError` for a tensor that lies in no file.
    """
    complete = onnx.ModelProto()
    complete.CopyFrom(model)
    for name, tensor in tensors.items():
        if tensor.offset is None:
            raise InternalError(f"{name} lies in no file, and {location} should hold it")
        initializer = _describe(name, tensor)
        initializer.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", tensor.offset), ("length", tensor.nbytes)):
            initializer.external_data.add(key=key, value=str(value))
        complete.graph.initializer.append(initializer)
    path.write_bytes(complete.SerializeToString(deterministic=True))


def write_data(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write tensors one after the other, where `placed` says, one in memory at a time."""
    with path.open("wb") as file:
        for name, tensor in placed(tensors).items():
            file.write(bytes((tensor.offset or 0) - file.tell()))
            file.write(_bytes_of(name, tensor))


def placed(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors with the offsets that they have in a file by `write_data`."""
    found, end = {}, 0
    for name, tensor in tensors.items():
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        found[name], end = replace(tensor, offset=offset), offset + tensor.nbytes
    return found


def write_embedded(path: Path, model: onnx.ModelProto, tensors: Mapping[str, LazyTensor]) -> None:
    """Write a model with the tensors as its initializers, one tensor in memory at a time.

    Raises `InputError` if the file would be too large for ONNX, and `InternalError` for a tensor whose shape or dtype
    is not what it says.
    """
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    graph = model.graph.SerializeToString(deterministic=True)
    heads = {name: _describe(name, tensor).SerializeToString(deterministic=True) for name, tensor in tensors.items()}
    bodies = {name: len(heads[name]) + _field_size(TENSOR_RAW_DATA, tensor.nbytes) for name, tensor in tensors.items()}
    size = len(graph) + sum(_field_size(GRAPH_INITIALIZER, body) for body in bodies.values())
    if size > MOST_BYTES:
        raise InputError(
            f"The weights have {size / 1e9:.1f} GB, and ONNX allows 2 GB in one file; keep them in another"
            " (`external`, or a smaller external_weights_above_mb in the config)."
        )
    with path.open("wb") as file:
        file.write(rest.SerializeToString(deterministic=True))
        _start_field(file, MODEL_GRAPH, size)
        file.write(graph)
        for name, tensor in tensors.items():
            _start_field(file, GRAPH_INITIALIZER, bodies[name])
            file.write(heads[name])
            _start_field(file, TENSOR_RAW_DATA, tensor.nbytes)
            file.write(_bytes_of(name, tensor))


def end_with_checksum(path: Path) -> None:
    """Add the checksum of all that a file holds so far, for `check_file`."""
    digest = sha256_of(path)
    with path.open("ab") as file:
        file.write(checksum_entry(digest))


def _describe(name: str, tensor: LazyTensor) -> onnx.TensorProto:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return onnx.TensorProto(name=name, dims=tensor.shape, data_type=dtype)


def _bytes_of(name: str, tensor: LazyTensor) -> memoryview:
    value = tensor.read()
    if (value.shape, value.dtype.name) != (tensor.shape, tensor.dtype):
        raise InternalError(f"{name} is {value.shape} {value.dtype} instead of {tensor.shape} {tensor.dtype}")
    return value.reshape(-1).view(np.uint8).data


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _start_field(file: IO[bytes], number: int, size: int) -> None:
    # Wire type 2: bytes preceded by their length.
    file.write(_varint(number << 3 | 2) + _varint(size))


def _field_size(number: int, size: int) -> int:
    head = io.BytesIO()
    _start_field(head, number, size)
    return len(head.getvalue()) + size
