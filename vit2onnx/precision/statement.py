"""What a file of small precision says of its initializers, and the recomputation of these from a checkpoint.

Such a file does not hold the checkpoint's tensors as they are. Its metadata say under `REDUCTION`, in JSON, how each
changed initializer is made of one tensor:

    {"precision": "int8", "activations": "dynamic",
     "weights": {NEW: {"as": KIND, "of": TENSOR, "rows": FACTORS, "columns": FACTORS}, ...},
     "factors": {FACTORS: TEXT, ...},
     "float32": {NAME: REASON, ...}}

`rows` are multiplied and `columns` (the last axis) are divided by factors, base64 of little-endian float32, before the
tensor becomes what KIND, one of those below, says. An initializer of no tensor has a `value` of the numpy dtype `as`,
or is the `inverse` of factors. `float32` has what stays in that precision, and why. Exporting makes the initializers by
`tensors_of` too, so a file cannot differ from what it says.
"""

import base64
import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np

from vit2onnx.errors import InputError, InternalError
from vit2onnx.weights.keytable import LazyTensor, Shape

REDUCTION = "reduction"
FLOAT16, FLOAT32 = "float16", "float32"
# Symmetric, so that the zero point is 0.
LARGEST_INT8 = 127
# What an initializer is of a tensor: its int8 or its scales, of columns or of rows; or, as "float32", scaled only.
INT8, SCALE, INT8_ROWS, SCALE_ROWS = "int8", "scale", "int8_rows", "scale_rows"
# What an initializer is that is made of factors alone.
INVERSE = "inverse"
# How many rows of a table are in double precision at once.
ROWS = 4096


def reduction_of(metadata: Mapping[str, str]) -> Mapping[str, Any] | None:
    """The statement in the metadata of a file; none if its precision is not reduced.

    Raises `InputError` if it is damaged.
    """
    if REDUCTION not in metadata:
        return None
    try:
        found = json.loads(metadata[REDUCTION])
    except ValueError:
        found = None
    if not isinstance(found, dict) or "precision" not in found:
        raise InputError(f"The metadata {REDUCTION} is damaged; export the graph again.")
    return found


def tensors_of(statement: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The initializers that a file with this statement must hold, of a checkpoint's tensors, each made when it is read.

    Raises `InputError` if the statement is of other tensors, or if it is damaged.
    """
    try:
        if statement["precision"] == "int8":
            return _int8_tensors(statement, tensors)
        return _float16_tensors(statement, tensors)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"The metadata {REDUCTION} does not fit this checkpoint ({error!r}); export again.") from error


def _float16_tensors(statement: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    found = {name: tensor for name, tensor in tensors.items() if name not in statement["weights"]}
    for name, entry in statement["weights"].items():
        tensor = tensors[name]
        if entry != {"as": FLOAT16, "of": name}:
            raise ValueError(f"{name} is said to be {entry}")
        found[name] = LazyTensor(tensor.shape, FLOAT16, partial(_in_float16, name, tensor))
    return {name: found[name] for name in tensors if name in found}


def _in_float16(name: str, tensor: LazyTensor) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = tensor.read().astype(np.float16)
    if not np.isfinite(narrow).all():
        raise InternalError(f"{name} has values beyond float16, and is to be in it")
    return narrow


def encoded(factors: np.ndarray) -> str:
    """Factors as text."""
    return base64.b64encode(factors.astype("<f4").tobytes()).decode()


def decoded(text: str) -> np.ndarray:
    """Factors of a text, float64."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)


def quantised(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A float64 matrix as int8 and float32 scales, one for all elements along an axis, which stays with size 1.

    Int8 times scale is about the matrix. The scale of zeros is 1.
    """
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales = np.where(largest > 0, largest / LARGEST_INT8, 1).astype(np.float32)
    whole = np.rint(values / scales)
    # The scale may have been rounded down.
    return np.clip(whole, -LARGEST_INT8, LARGEST_INT8).astype(np.int8), scales


def quantised_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A table as int8 and the scale [rows, 1] of each row; some rows at a time, because a table may have a gigabyte."""
    whole, scales = np.empty(table.shape, np.int8), np.empty((len(table), 1), np.float32)
    for start in range(0, len(table), ROWS):
        part = slice(start, start + ROWS)
        whole[part], scales[part] = quantised(table[part].astype(np.float64), axis=1)
    return whole, scales


def noise_of_rows(table: np.ndarray) -> float:
    """The expected error of the worst row of a table by 8 bits, as a share of the row; both are root mean squares."""
    squares = np.einsum("rc,rc->r", table, table, dtype=np.float64) / table.shape[1]
    rounding = np.square(np.abs(table).max(axis=1).astype(np.float64) / LARGEST_INT8) / 12
    return float(np.sqrt(np.max(rounding / np.where(squares > 0, squares, 1), initial=0)))


def _int8_tensors(statement: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    entries = statement["weights"]
    factors = {name: decoded(text) for name, text in statement["factors"].items()}

    def scaled(entry: Mapping[str, Any]) -> np.ndarray:
        """The tensor of an entry in float64, its rows multiplied and its columns divided."""
        value = tensors[entry["of"]].read().astype(np.float64)
        if "rows" in entry:
            value *= factors[entry["rows"]][:, None]
        if "columns" in entry:
            value /= factors[entry["columns"]]
        return value

    # A matrix in int8 and its scales are made at once, and are read one after the other.
    @lru_cache(maxsize=1)
    def pair(of: str, rows: str | None, columns: str | None) -> tuple[np.ndarray, np.ndarray]:
        whole, scales = quantised(scaled(_entry(of, rows, columns)), axis=0)
        return whole, scales[0]

    @lru_cache(maxsize=1)
    def pair_of_rows(of: str) -> tuple[np.ndarray, np.ndarray]:
        return quantised_rows(tensors[of].read())

    def made(entry: Mapping[str, Any]) -> LazyTensor:
        kind = entry["as"]
        if kind == INVERSE:
            return _constant((1 / factors[entry["value"]]).astype(np.float32))
        if "value" in entry:
            return _constant(np.array(entry["value"], kind))
        shape, how = tensors[entry["of"]].shape, [entry.get(key) for key in ("of", "rows", "columns")]
        _check_factors(entry, shape, factors)
        kinds: dict[str, tuple[Shape, str, Callable[[], np.ndarray]]] = {
            FLOAT32: (shape, FLOAT32, lambda: scaled(entry).astype(np.float32)),
            INT8: (shape, "int8", lambda: pair(*how)[0]),
            SCALE: (shape[1:], FLOAT32, lambda: pair(*how)[1]),
            INT8_ROWS: (shape, "int8", lambda: pair_of_rows(entry["of"])[0]),
            SCALE_ROWS: ((shape[0], 1), FLOAT32, lambda: pair_of_rows(entry["of"])[1]),
        }
        return LazyTensor(*kinds[kind])

    for name, entry in entries.items():
        _check_name(name, entry, tensors)
    changed = {entry["of"] for entry in entries.values() if "of" in entry}
    found = {name: tensor for name, tensor in tensors.items() if name not in changed}
    return found | {name: made(entry) for name, entry in entries.items()}


def _check_name(name: str, entry: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> None:
    """Raise `ValueError` if an initializer has not the name of what it is, so that none can stand for another."""
    about, _, what = name.rpartition(".")
    if "of" in entry:
        is_right = about == entry["of"] and entry["as"] == (FLOAT32 if what == "smoothed" else what)
    elif entry["as"] == INVERSE:
        is_right = what == INVERSE
    else:
        is_right = what in ("scale", "zero_point") and isinstance(entry["value"], int | float)
    if not is_right or name in tensors:
        raise ValueError(f"{name} is said to be {entry}")


def _entry(of: str, rows: str | None, columns: str | None) -> dict[str, str]:
    given = {"of": of, "rows": rows, "columns": columns}
    return {key: name for key, name in given.items() if name is not None}


def _constant(value: np.ndarray) -> LazyTensor:
    return LazyTensor(value.shape, value.dtype.name, lambda: value)


def _check_factors(entry: Mapping[str, Any], shape: Shape, factors: Mapping[str, np.ndarray]) -> None:
    """Raise `ValueError` if factors are not as many as a tensor's rows or columns, before anything is read."""
    for key, count in (("rows", shape[0]), ("columns", shape[-1])):
        if key in entry and len(factors[entry[key]]) != count:
            raise ValueError(f"{entry['of']} has {count} {key} and not {len(factors[entry[key]])}")
