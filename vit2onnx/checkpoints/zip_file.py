"""Where the records of a zip lie. Nothing is inflated.

Standard library only, because the Snakefile imports this module.
"""

import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vit2onnx.checkpoints.head import LONGEST_HEAD, damaged
from vit2onnx.errors import InputError

# How a zip begins.
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Record:
    """A file in a zip: its size, and where it begins if it is not compressed."""

    offset: int | None
    size: int


def records_of(path: Path) -> dict[str, Record]:
    """The records of a zip by name."""
    try:
        with path.open("rb") as file:
            _check_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                found = {}
                for record in archive.infolist():
                    if record.filename in found:
                        raise damaged(path, f"record {record.filename} is there twice")
                    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                        found[record.filename] = Record(None, record.file_size)
                        continue
                    file.seek(record.header_offset + 26)
                    name, extra = struct.unpack("<HH", file.read(4))
                    begin = record.header_offset + 30 + name + extra
                    if begin + record.file_size > archive.start_dir:
                        raise damaged(path, f"record {record.filename} goes beyond its end")
                    found[record.filename] = Record(begin, record.file_size)
    except InputError:
        raise
    # Any exception, because what is raised depends on which byte is broken.
    except Exception as error:
        raise damaged(path, f"its zip cannot be read: {type(error).__name__}") from None
    return found


def _check_directory(path: Path, file: IO[bytes]) -> None:
    """Raise `InputError` if the list of a zip's records, which is read at once, is too long.

    Source: APPNOTE.TXT of the zip format, 4.3.14 to 4.3.16.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22 - 20))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise damaged(path, "the end of its zip is missing")
    length = struct.unpack("<L", tail[end + 12 : end + 16])[0]
    if tail[max(0, end - 20) : end][:4] == b"PK\x06\x07":
        (place,) = struct.unpack("<Q", tail[end - 12 : end - 4])
        file.seek(min(place, size))
        head = file.read(56)
        if head[:4] != b"PK\x06\x06" or len(head) < 56:
            raise damaged(path, "the end of its zip is missing")
        (length,) = struct.unpack("<Q", head[40:48])
    if length > LONGEST_HEAD:
        raise damaged(path, f"its list of records is {length} bytes long")
    file.seek(0)
