"""The tensors of an `.npz` file of numpy, read without numpy's loader, which would believe what the file says.

Standard library only, because the Snakefile imports this module.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from vit2onnx.checkpoints.head import BYTES, MOST_TENSORS, Head, Shape, damaged
from vit2onnx.checkpoints.zip_file import Record
from vit2onnx.errors import InputError

SUFFIX = ".npy"
MAGIC = b"\x93NUMPY"
# The longest header of an array that is read; numpy's own limit.
LONGEST_HEADER, LONGEST_NUMBER = 10_000, 18
# What numpy writes for an array of numbers, and for no other.
HEADER = re.compile(
    r"\{'descr': '(?P<order>[<>|])(?P<kind>[A-Za-z])(?P<bytes>\d*)[^']*',"
    r" 'fortran_order': (?P<fortran>True|False),"
    r" 'shape': \((?P<shape>(?:\d+, ?)*\d*)\),? ?\} *\n"
)
# Numpy has no bfloat16: JAX saves it as two bytes of no meaning.
KINDS = {
    **{"f8": "float64", "f4": "float32", "f2": "float16", "V2": "bfloat16", "b1": "bool"},
    **{f"{kind[0]}{bits // 8}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
# Layers that flax has stacked over the depth, and how it calls them where it has not.
STACKED = re.compile(r"(?:^|(?<=/))encoderblock(?=/)")


def is_npz(records: Mapping[str, Record]) -> bool:
    """Whether the records of a zip are those of an `.npz`."""
    return any(name.endswith(SUFFIX) for name in records)


def read_npz(path: Path, records: Mapping[str, Record]) -> dict[str, Head]:
    """All arrays by name. Where flax has stacked layers over the depth, each layer is an array of its own.

    Raises `InputError` if an array is compressed, or if its header is none of numpy's.
    """
    found: dict[str, Head] = {}
    with path.open("rb") as file:
        for record_name, record in records.items():
            if not record_name.endswith(SUFFIX):
                continue
            name = record_name.removesuffix(SUFFIX)
            for layer, head in _layers(path, name, _head(path, file, name, record)):
                if layer in found:
                    raise damaged(path, f"array {layer} is there twice")
                if len(found) == MOST_TENSORS:
                    raise damaged(path, f"it has more than {MOST_TENSORS} arrays")
                found[layer] = head
    return found


def _head(path: Path, file: IO[bytes], name: str, record: Record) -> Head:
    """Where one array lies. Source: numpy.lib.format, "Format Version 1.0" to 3.0."""
    if record.offset is None:
        raise InputError(
            f"{path} is compressed, so its arrays cannot be read in place; load and save it once with numpy.savez."
        )
    file.seek(record.offset)
    opening = file.read(min(record.size, 12))
    wide = opening[6:7] in (b"\x02", b"\x03")
    start = 12 if wide else 10
    length = int.from_bytes(opening[8:start], "little")
    if not opening.startswith(MAGIC) or opening[6:7] not in (b"\x01", b"\x02", b"\x03") or len(opening) < start:
        raise damaged(path, f"{name} is no array of numpy")
    if length > min(record.size - start, LONGEST_HEADER):
        raise damaged(path, f"the header of {name} should be {length} bytes long")
    file.seek(record.offset + start)
    text = file.read(length).decode("latin-1")
    match = HEADER.fullmatch(text)
    if match is None:
        # Of named fields, or of a type that is another one inside.
        if text.startswith("{'descr': "):
            return Head(path, (), "an array of no plain numbers", -1)
        raise damaged(path, f"the header of {name} is none of numpy's")
    if match["order"] == ">":
        raise InputError(f"{path} was written on a big-endian machine; save it again on a usual one.")
    numbers = re.findall(r"\d+", match["shape"])
    if any(len(number) > LONGEST_NUMBER for number in numbers):
        raise damaged(path, f"{name} has a size of {max(map(len, numbers))} digits")
    shape = tuple(map(int, numbers))
    kind = f"{match['kind']}{match['bytes']}"
    if kind not in KINDS:
        what = "an array of Python objects" if kind == "O" else f"an array of numpy's type {kind[:20]}"
        return Head(path, shape, what, -1)
    dtype = KINDS[kind]
    if record.size - start - length != math.prod(shape) * BYTES[dtype]:
        raise damaged(path, f"array {name} has not the size that its shape gives")
    return Head(path, shape, dtype, record.offset + start + length, _strides(shape, match["fortran"] == "True"))


def _strides(shape: Shape, fortran: bool) -> Shape | None:
    """The steps between elements of an array that is stored column by column; `None` if that is C order too."""
    if not fortran or sum(size != 1 for size in shape) < 2 or 0 in shape:
        return None
    return tuple(itertools.accumulate(shape[:-1], lambda product, size: product * size, initial=1))


def _layers(path: Path, name: str, head: Head) -> Iterator[tuple[str, Head]]:
    """An array, or if flax has stacked it over the depth, the array of each layer."""
    if not (STACKED.search(name) and head.shape and head.offset >= 0):
        yield name, head
        return
    depth, shape = head.shape[0], head.shape[1:]
    if depth > MOST_TENSORS:
        raise damaged(path, f"array {name} has {depth} layers")
    step = head.strides[0] if head.strides else math.prod(shape)
    for layer in range(depth):
        offset = head.offset + layer * step * BYTES[head.dtype]
        strides = head.strides[1:] if head.strides else None
        yield STACKED.sub(f"encoderblock_{layer}", name), Head(path, shape, head.dtype, offset, strides)
