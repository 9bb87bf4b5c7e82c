"""Write files so that a broken run leaves nothing that looks finished."""

import json
import os
import socket
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.arrays import Arrays
from vit2onnx.checksums import read_json as read_json
from vit2onnx.checksums import sha256_of as sha256_of
from vit2onnx.checksums import with_checksum
from vit2onnx.errors import InputError

# What a path may lead to instead of a regular file.
KINDS = {
    stat.S_ISDIR: "folder",
    stat.S_ISFIFO: "named pipe",
    stat.S_ISSOCK: "socket",
    stat.S_ISCHR: "device",
    stat.S_ISBLK: "device",
}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, moved to `path` when the context ends well and deleted when it does not.

    What a killed process has left of an earlier attempt is deleted first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    for left in path.parent.glob(f".{path.name}.{host}.*"):
        if not _is_alive(int(left.name.rpartition(".")[2])):
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{host}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write all of a text or nothing."""
    with atomic(path) as new:
        new.write_text(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Write all of a content or nothing."""
    with atomic(path) as new:
        new.write_bytes(content)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data for `read_json`. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(with_checksum(data), indent=1) + "\n")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_regular(path: Path) -> None:
    """Raise `InputError` unless the path leads, through links if need be, to a regular file.

    Call it before opening a file of the user's: opening a named pipe waits for a writer, and a device such as /dev/zero
    never ends.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be opened ({reason}); correct the path or put the file there.") from error
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in KINDS.items() if is_kind(mode)), "special file")
        raise InputError(f"{path} is a {kind} and not a file with content; name a regular file.")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> None:
    """Write named arrays as an uncompressed `.npz`, each when it comes; the same arrays give the same bytes."""
    with atomic(path) as new, zipfile.ZipFile(new, "w") as archive:
        for name, array in arrays.items() if isinstance(arrays, Mapping) else arrays:
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an `.npz`. Raises `InputError` if it is damaged."""
    with open_arrays(path) as arrays:
        return dict(arrays)


def open_arrays(path: Path) -> Arrays:
    """An `.npz` whose arrays are read when they are asked for, to be closed. Raises `InputError` if it is damaged."""
    check_regular(path)
    return Arrays(path)
