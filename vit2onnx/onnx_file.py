"""Read what an ONNX file says of itself and where its weights are, without loading it. Standard library only.

A protobuf message is a sequence of fields, each a number with a wire type and a value; what is not looked for is
skipped. Source: protobuf.dev/programming-guides/encoding, field numbers from onnx.proto.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vit2onnx.checksums import REBUILD, sha256_of
from vit2onnx.errors import InputError

# The prefix of noise floors in a sample.
FLOORS = "noise_floors"
LICENCE_FILE = "LICENSE.md"
PASSPORT_FORMAT = 4

# Field numbers.
MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA, GRAPH_NODE, GRAPH_INITIALIZER = 7, 8, 14, 1, 5
OPSET_DOMAIN, OPSET_VERSION = 1, 2
TENSOR_DIMS, TENSOR_NAME, TENSOR_RAW_DATA, TENSOR_EXTERNAL_DATA = 1, 8, 9, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
# No name or entry of the metadata is longer.
MOST_TEXT = 1 << 26


def passport_beside(graph: Path) -> Path:
    """Where the passport of a graph is."""
    return graph.with_suffix(".passport.json")


def sample_beside(graph: Path) -> Path:
    """Where the sample of a graph is, by which it is verified."""
    return graph.with_suffix(".sample.npz")


def data_beside(graph: Path) -> Path:
    """Where the weights of a graph in a small precision are, if they are not in the graph."""
    return graph.with_name(f"{graph.name}_data")


@dataclass(frozen=True)
class Initializer:
    """Where the bytes of a weight stand; `file` is the ONNX file or the one beside it that holds its external data."""

    name: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    def sha256(self) -> str:
        """The SHA-256 of its bytes. Raises `InputError` if the file is missing or ends before them."""
        if not self.file.is_file():
            raise InputError(f"{self.file} is missing, which holds weights; keep it beside the ONNX file.")
        if min(self.offset, self.nbytes) < 0 or self.offset + self.nbytes > self.file.stat().st_size:
            raise InputError(f"{self.file} ends within {self.name}.")
        return sha256_of(self.file, self.offset, self.nbytes)


def initializers(path: Path) -> dict[str, Initializer]:
    """All initializers of an ONNX file that stand in it, or in another file, as plain bytes; by name.

    Raises `InputError` if it is no ONNX file.
    """
    with _opened(path) as (file, size):
        found = [
            _initializer(file, path, *tensor)
            for graph in _fields(file, 0, size, MODEL_GRAPH)
            for tensor in _fields(file, *graph, GRAPH_INITIALIZER)
        ]
    return {one.name: one for one in found}


def nodes(path: Path) -> list[bytes]:
    """The nodes of an ONNX file in order, each as the message that it is. Raises `InputError` if it is none."""
    with _opened(path) as (file, size):
        found = []
        for graph in _fields(file, 0, size, MODEL_GRAPH):
            for start, end in _fields(file, *graph, GRAPH_NODE):
                file.seek(start)
                found.append(file.read(end - start))
    return found


def is_external(path: Path) -> bool:
    """Whether weights of an ONNX file are in another file."""
    return any(one.file != path for one in initializers(path).values())


def bytes_of(path: Path) -> int:
    """The size of an ONNX file with its weights, wherever they are."""
    external = (one.nbytes for one in initializers(path).values() if one.file != path)
    return path.stat().st_size + sum(external)


def metadata(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file. Raises `InputError` if it is none."""
    with _opened(path) as (file, size):
        return dict(_entry(file, *place) for place in _fields(file, 0, size, MODEL_METADATA))


def described(path: Path) -> dict[str, Any]:
    """The metadata of an ONNX file that vit2onnx has written, as data: texts, or what stands in them as JSON.

    Raises `InputError` if the file is no ONNX file or this is no JSON.
    """
    found: dict[str, Any] = {}
    for key, text in metadata(path).items():
        try:
            found[key] = json.loads(text) if text[:1] in ("{", "[") or text == "null" else text
        except (ValueError, RecursionError):
            raise InputError(f"{path}: its metadata {key[:100]} is damaged; {REBUILD}.") from None
    return found


def operator_sets(path: Path) -> dict[str, int]:
    """The operator sets that an ONNX file needs: version by domain, ONNX's own under "". Raises `InputError`."""
    with _opened(path) as (file, size):
        return dict(_operator_set(file, *place) for place in _fields(file, 0, size, MODEL_OPSET))


def checksum_entry(digest: str) -> bytes:
    """The field of the metadata that ends a file: the SHA-256 of all bytes before it.

    It is an entry like any other, so every reader of ONNX takes it, and `check_file` finds it without parsing.
    """
    entry = b"".join(
        bytes([number << 3 | 2, len(text)]) + text
        for number, text in ((ENTRY_KEY, b"content_sha256"), (ENTRY_VALUE, digest.encode()))
    )
    return bytes([MODEL_METADATA << 3 | 2, len(entry)]) + entry


def check_file(path: Path) -> None:
    """Raise `InputError` if a bit of an ONNX file is not as it was written; external weights are not looked at."""
    size = path.stat().st_size - len(checksum_entry("0" * 64))
    with path.open("rb") as file:
        file.seek(max(size, 0))
        found = file.read()
    if size < 0 or found != checksum_entry(sha256_of(path, 0, size)):
        raise InputError(f"{path} is damaged or was changed after it was written; {REBUILD}.")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    try:
        with path.open("rb") as file:
            yield file, path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except (EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no complete ONNX file ({error}).") from error


def _initializer(file: IO[bytes], path: Path, start: int, end: int) -> Initializer:
    (name,) = (_text(file, *place) for place in _fields(file, start, end, TENSOR_NAME))
    shape = tuple(_dims(file, start, end))
    if external := dict(_entry(file, *place) for place in _fields(file, start, end, TENSOR_EXTERNAL_DATA)):
        location = external["location"]
        if Path(location).name != location or location == "..":
            raise ValueError("its weights are in another folder")
        return Initializer(name, shape, path.parent / location, int(external["offset"]), int(external["length"]))
    (place,) = list(_fields(file, start, end, TENSOR_RAW_DATA)) or [(start, start)]
    return Initializer(name, shape, path, place[0], place[1] - place[0])


def _entry(file: IO[bytes], start: int, end: int) -> tuple[str, str]:
    (key,), (value,) = (
        [_text(file, *place) for place in _fields(file, start, end, number)] for number in (ENTRY_KEY, ENTRY_VALUE)
    )
    return key, value


def _operator_set(file: IO[bytes], start: int, end: int) -> tuple[str, int]:
    # An empty domain may be left out.
    (domain,) = [_text(file, *place) for place in _fields(file, start, end, OPSET_DOMAIN)] or [""]
    ((first, _),) = _fields(file, start, end, OPSET_VERSION)
    file.seek(first)
    return domain, _varint(file)


def _fields(file: IO[bytes], start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Start and end of the value of every field of one number between two offsets."""
    while start < end:
        file.seek(start)
        key = _varint(file)
        number, wire_type = key >> 3, key & 7
        if not number:
            raise ValueError("a field without a number")
        start = file.tell()
        if wire_type == 2:
            length = _varint(file)
            start = file.tell()
            after = start + length
        elif wire_type == 0:
            _varint(file)
            after = file.tell()
        elif wire_type in (1, 5):
            after = start + (8 if wire_type == 1 else 4)
        else:
            raise ValueError(f"wire type {wire_type}")
        if after > end:
            raise EOFError("it is truncated")
        if number == wanted:
            yield start, after
        start = after


def _dims(file: IO[bytes], start: int, end: int) -> Iterator[int]:
    """The sizes of a tensor, each a field of its own or all in one."""
    for first, last in _fields(file, start, end, TENSOR_DIMS):
        file.seek(first)
        while file.tell() < last:
            yield _varint(file)


def _text(file: IO[bytes], start: int, end: int) -> str:
    if end - start > MOST_TEXT:
        raise ValueError(f"a text of {end - start} bytes")
    file.seek(start)
    return file.read(end - start).decode()


def _varint(file: IO[bytes]) -> int:
    number = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError("it is truncated")
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
        shift += 7
