"""How large a checkpoint can be, and whether there is room for it. Both are checked before anything is written."""

import shutil
from pathlib import Path

from vit2onnx.errors import InputError

# Names, headers and records of the largest published files take far less.
WRAPPING_BYTES = 64 << 20


def sizes_of(parameters: int) -> range:
    """The numbers of bytes that a file with so many parameters may have: from one per parameter to over twelve."""
    return range(parameters, 3 * 4 * parameters + WRAPPING_BYTES)


def check_bytes(number: int, name: str, sizes: range) -> None:
    """Raise `InputError` if something has too few or too many bytes."""
    if number not in sizes:
        few = number < sizes.start
        raise InputError(
            f"{name} has {'only ' if few else ''}{number} bytes; this model's checkpoint has at"
            f" {'least' if few else 'most'} {sizes.start if few else sizes.stop - 1}, so it is another file: compare it"
            " with the publisher's."
        )


def check_room(number: int, path: Path, way_out: str) -> None:
    """Raise `InputError` if a disk has no room for so many bytes at a path, which need not be there yet."""
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if number > free:
        raise InputError(
            f"The download needs {number / 1e9:.1f} GB, and the disk of {folder} has {free / 1e9:.1f} GB left;"
            f" {way_out}."
        )
