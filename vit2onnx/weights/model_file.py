"""The inference model in its file, `model.eqx`: one line of JSON that says what it is, then its leaves."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import equinox as eqx
import jax
import numpy as np

from vit2onnx.checksums import REBUILD
from vit2onnx.errors import InputError, InternalError
from vit2onnx.files import check_regular
from vit2onnx.nn.model import Model
from vit2onnx.spec.family import architecture_schema, part
from vit2onnx.spec.schema import faults_of
from vit2onnx.spec.variant import Architecture, VariantSpec, architecture_of
from vit2onnx.weights.header import CRC, check_array, crc_of, header_line, read_header
from vit2onnx.weights.keytable import Assignment, KeyTable, LazyTensor, assign, value_of
from vit2onnx.weights.leaves import array_shapes, leaf_names, npy_header, write_leaves


def skeleton_of(family: str, architecture: Architecture) -> Model:
    """The model of a family, with a `jax.ShapeDtypeStruct` in place of every parameter."""
    skeleton: Model = eqx.filter_eval_shape(part(family, "model").Model, architecture)
    return skeleton


def model_table(spec: VariantSpec) -> KeyTable:
    """From the archive's tree to the model's."""
    table: KeyTable = part(spec.family, "layouts").model_table(spec.architecture)
    return table


def map_archive(
    table: KeyTable, skeleton: Any, archive: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Every array leaf of the skeleton with its value, in the order in which the archive gives their sources.

    Raises `InternalError` if the archive does not hold exactly what the leaves need, since its reader has compared it
    with the architecture.
    """
    by_source: dict[str, list[Assignment]] = {}
    for assignment in assign(table, array_shapes(skeleton)):
        (source,) = assignment.sources
        by_source.setdefault(source, []).append(assignment)
    for name, array in archive:
        if name not in by_source and name not in table.ignored:
            raise InternalError(f"the archive holds {name}, which no leaf needs")
        for assignment in by_source.pop(name, []):
            (expected,) = assignment.transform.shapes(assignment.shape)
            if array.shape != expected:
                raise InternalError(f"{name} is {array.shape} instead of {expected}")
            yield assignment.target, value_of(assignment, [array])
    if by_source:
        raise InternalError(f"the archive lacks {list(by_source)}, which the model needs")


def map_model(spec: VariantSpec, archive: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves of the inference model of a variant."""
    return map_archive(model_table(spec), skeleton_of(spec.family, spec.architecture), archive)


def write_model(path: Path, spec: VariantSpec, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the inference model of a variant: a line of JSON, then the leaves."""
    header = {"variant": spec.name, "family": spec.family, "architecture": asdict(spec.architecture)}
    skeleton = skeleton_of(spec.family, spec.architecture)
    checksums = dict.fromkeys(array_shapes(skeleton), crc_of(b""))

    def summed() -> Iterator[tuple[str, np.ndarray]]:
        for name, value in values:
            checksums[name] = crc_of(value.reshape(-1).data)
            yield name, value

    with path.open("wb") as file:
        file.write(header_line(header, checksums))
        write_leaves(file, skeleton, summed())
        # They are known only now.
        file.seek(0)
        file.write(header_line(header, checksums))


def open_model(path: Path) -> tuple[Model, dict[str, LazyTensor]]:
    """The skeleton of a model file and its tensors by name, read only when asked for.

    Raises `InputError` if the file is truncated, damaged or no model file. Its head is compared with the family's
    schema before a skeleton is made of it. A damaged array shows when it is read.
    """
    check_regular(path)
    with path.open("rb") as file:
        header = read_header(path, file)
        try:
            family, architecture = header["family"], header["architecture"]
            given = {key: value for key, value in architecture.items() if value is not None}
            if faults := faults_of(given, architecture_schema(family)):
                raise ValueError(faults)
            skeleton = skeleton_of(family, architecture_of(family, architecture))
        except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path} is no model.eqx written by this vit2onnx; {REBUILD}.") from None
        return skeleton, _index(path, file, skeleton, header[CRC])


def load_model(path: str | Path) -> Model:
    """Load `model.eqx` as a callable Equinox model: `model(pixel_values)` with float32 [batch, 3, height, width]."""
    skeleton, tensors = open_model(Path(path))
    leaves = [jax.numpy.asarray(tensors[name].read()) for name in leaf_names(skeleton)]
    model: Model = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(skeleton), leaves)
    return model


def _index(path: Path, file: IO[bytes], skeleton: Any, checksums: Mapping[str, str]) -> dict[str, LazyTensor]:
    """Find where each leaf lies in an open `.eqx` file, from its current position on."""
    tensors = {}
    for name, shape in array_shapes(skeleton).items():
        header = npy_header(shape)
        if file.read(len(header)) != header:
            raise InputError(f"{path} is damaged at {name}; {REBUILD}.")
        tensors[name] = _checked(path, name, LazyTensor.in_file(path, file.tell(), shape, "float32"), checksums[name])
        file.seek(tensors[name].nbytes, io.SEEK_CUR)
    if file.tell() != path.stat().st_size:
        raise InputError(f"{path} is truncated or damaged; {REBUILD}.")
    return tensors


def _checked(path: Path, name: str, tensor: LazyTensor, checksum: str) -> LazyTensor:
    """A tensor that is compared with its checksum when it is read."""

    def read() -> np.ndarray:
        array = tensor.read()
        check_array(path, name, array.reshape(-1).data, checksum)
        return array

    return replace(tensor, read=read)
