"""What was measured, in a file of plain data. Standard library only."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from vit2onnx.errors import InputError
from vit2onnx.files import read_json, write_json


@dataclass(frozen=True)
class PlainFile:
    """Plain data that is kept as JSON, one key for each field."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The data of a file. Raises `InputError` if it has other keys."""
        data = read_json(path)
        if data.keys() != {entry.name for entry in fields(cls)}:
            raise InputError(f"{path} was edited: it has other keys; delete it and run again.")
        return cls(**data)

    def write(self, path: Path) -> None:
        """Write the data."""
        write_json(path, asdict(self))
