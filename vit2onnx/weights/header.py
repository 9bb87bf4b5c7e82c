"""The first line of `model.eqx`: what the model is, and the CRC-32 of every array. Standard library only."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from vit2onnx.checksums import REBUILD
from vit2onnx.errors import DamagedError, InputError

CRC = "crc32"
# The CRC-32 of the line without this entry, which is the last.
OWN = "crc32_of_this"
MOST_BYTES = 1 << 20
# Arrays begin at such offsets, as ONNX asks of external data.
ALIGNMENT = 64


def crc_of(data: Any) -> str:
    """The CRC-32 of bytes, as eight hexadecimal digits."""
    return f"{zlib.crc32(data):08x}"


def header_line(about: Mapping[str, Any], checksums: Mapping[str, str]) -> bytes:
    """The line for a model. Its length does not depend on the checksums, so it can be written before they are known."""
    header = {**about, CRC: dict(checksums)}
    line = json.dumps({**header, OWN: crc_of(json.dumps(header).encode())}).encode()
    return line.ljust(-(-(len(line) + 1) // ALIGNMENT) * ALIGNMENT - 1) + b"\n"


def read_header(path: Path, file: IO[bytes]) -> dict[str, Any]:
    """The content of the first line of an open file. Raises `InputError` if it is not as it was written."""
    line = file.readline(MOST_BYTES)
    try:
        header: dict[str, Any] = json.loads(line)
        del header[OWN]
        about = {key: value for key, value in header.items() if key != CRC}
        as_written = header_line(about, header[CRC])
    # Whatever a damaged line makes of the header.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is no model.eqx written by this vit2onnx, or is damaged; {REBUILD}.") from None
    if line != as_written:
        raise InputError(f"{path} is damaged at its beginning; {REBUILD}.")
    return header


def check_array(path: Path, name: str, data: Any, checksum: str) -> None:
    """Raise `DamagedError` if the bytes of an array are not those that were written."""
    if crc_of(data) != checksum:
        raise DamagedError(f"{path} is damaged within {name}; {REBUILD}.")
