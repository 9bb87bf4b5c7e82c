"""Hashes of files, and JSON files that carry a checksum of their own content. Standard library only.

Without a checksum, an edit or a flipped bit in a record would become a wrong figure in a verdict. It is no signature:
whoever changes a file on purpose can compute it anew.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from vit2onnx.errors import InputError

CHUNK = 1 << 20
CHECKSUM = "checksum"
REBUILD = "delete it and run again to rebuild it"


def sha256_of(path: Path, start: int = 0, nbytes: int | None = None) -> str:
    """The SHA-256 of a file, or of `nbytes` bytes of it from `start` on, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        left = path.stat().st_size - start if nbytes is None else nbytes
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def with_checksum(data: Any) -> Any:
    """Plain data, a mapping, with its checksum. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    plain = json.loads(json.dumps(data, allow_nan=False))
    return {**plain, CHECKSUM: _checksum_of(plain)}


def read_json(path: Path, way_out: str = REBUILD, most_bytes: int = 1 << 30) -> Any:
    """The content of a JSON file without its checksum. Raises `InputError` if it is not what was written."""
    if not path.is_file():
        raise InputError(f"{path} is missing; {way_out}.")
    if path.stat().st_size > most_bytes:
        raise InputError(f"{path} has {path.stat().st_size} bytes, more than such a file ever has; {way_out}.")
    try:
        data = json.loads(path.read_bytes(), parse_constant=_refused, parse_int=_whole)
        told = data.pop(CHECKSUM)
    # Whatever a broken file makes of data.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is damaged, or was not written by this version of vit2onnx; {way_out}.") from None
    if told != _checksum_of(data):
        raise InputError(f"{path} was edited or is damaged: its checksum is not that of its content; {way_out}.")
    return data


def _checksum_of(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _whole(digits: str) -> int:
    # Not longer, because the time to convert grows with the square of the length.
    if len(digits) > 20:
        raise ValueError("a number of more than 20 digits")
    return int(digits)
