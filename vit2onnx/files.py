"""Write files so that a broken run leaves nothing that looks finished."""

import hashlib
import json
import math
import os
import socket
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.errors import InputError

CHUNK = 1 << 20
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


def write_json(path: Path, data: Any) -> None:
    """Write plain data. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


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

    To be called before a file of the user's is opened: a named pipe is waited for, and a device such as /dev/zero
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


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@contextmanager
def open_arrays(path: Path) -> Iterator["Arrays"]:
    """An `.npz` of `write_arrays`, whose arrays are read when they are asked for.

    Raises `InputError` if it is damaged, then or when an array is asked for.
    """
    check_regular(path)
    with ExitStack() as stack:
        with _damage_as_input_error(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("it declares more than it holds")
        yield Arrays(path, archive)


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an open `.npz` by name, each read when it is asked for.

    Not as `np.load` reads them, which believes what a file declares: a few bytes could become gigabytes.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path = path
        self.archive = archive
        self.entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        with _damage_as_input_error(self.path), self.archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            nbytes = entry.file_size - file.tell()
            is_plain = version == (1, 0) and entry.compress_type == zipfile.ZIP_STORED and dtype.kind in "fiubU"
            if not is_plain or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != nbytes:
                raise ValueError(f"{name} is not as it was written")
            array = np.empty(math.prod(shape), dtype)
            content = array.view(np.uint8)
            for start in range(0, nbytes, CHUNK):
                part = content[start : start + CHUNK]
                part[:] = np.frombuffer(file.read(len(part)), np.uint8)
            # What is left is the checksum.
            file.read()
            return array.reshape(shape, order="F" if fortran else "C")


@contextmanager
def _damage_as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (MemoryError, FileNotFoundError):
        raise
    # Any other, because what is raised depends on which byte is broken.
    except Exception as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run again to rebuild it.") from error
