"""Read named arrays from an uncompressed `.npz`. Standard library and numpy only."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vit2onnx.checksums import REBUILD
from vit2onnx.errors import InputError


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of a file, each read and compared with its checksum (CRC-32) when it is asked for.

    Opening and reading raise `InputError` if the file is damaged or lacks the array. Declared sizes are compared with
    the file's own size before anything is read.
    """

    def __init__(self, path: Path, way_out: str = REBUILD):
        self._path, self._way_out = path, way_out
        self._file = path.open("rb")
        with self._damage_as_input_error():
            self._zip = zipfile.ZipFile(self._file)
            self._entries = {entry.filename: entry for entry in self._zip.infolist()}
            # The end of a zip counts its entries, in two bytes; a wrong length may hide the next entry.
            self._file.seek(-12, io.SEEK_END)
            if min(len(self._entries), 0xFFFF) != int.from_bytes(self._file.read(2), "little"):
                raise ValueError("it holds another number of arrays than it says")
            # Entries can share their bytes, and so be longer together than the file.
            if sum(entry.file_size for entry in self._entries.values()) > self._file.seek(0, io.SEEK_END):
                raise ValueError("it declares more than it holds")
            for name, entry in self._entries.items():
                if not name.endswith(".npy") or entry.compress_type or entry.compress_size != entry.file_size:
                    raise ValueError(f"{name} is no uncompressed array")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise InputError(f"{self._path} lacks {name}; {self._way_out}.")
        entry = self._entries[f"{name}.npy"]
        with self._damage_as_input_error():
            content = self._zip.read(entry)
            head = io.BytesIO(content)
            if np.lib.format.read_magic(head) != (1, 0):
                raise ValueError(f"{name} is of another format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
            # Only numbers and texts, whose size is known.
            if dtype.kind not in "fiubU" or dtype.itemsize == 0 or min(shape, default=0) < 0:
                raise ValueError(f"{name} holds no numbers")
            order: Any = "F" if fortran else "C"
            array = np.ndarray(shape, dtype, content, head.tell(), order=order)
            if head.tell() + array.nbytes != len(content):
                raise ValueError(f"{name} has another size than it says")
            return array.copy(order)

    def __contains__(self, name: object) -> bool:
        return f"{name}.npy" in self._entries

    def __iter__(self) -> Iterator[str]:
        return (name[: -len(".npy")] for name in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> "Arrays":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _damage_as_input_error(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        # Any other, because what is raised depends on which byte is broken.
        except Exception as error:
            self.close()
            raise InputError(f"{self._path} is damaged ({error}); {self._way_out}.") from error
