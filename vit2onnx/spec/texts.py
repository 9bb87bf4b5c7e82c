"""The texts that the config names: as token ids, or as words. Standard library and PyYAML only."""

import re
from collections.abc import Mapping
from pathlib import Path

from vit2onnx.errors import InputError
from vit2onnx.spec.plain_data import read_data

# Names of texts, as of photographs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# A text of more tokens is cut anyhow.
MOST_IDS, MOST_TEXTS = 4096, 1000


def texts_in(path: Path, shown: str) -> dict[str, list[int] | str]:
    """The texts of a file by name, each as token ids or as words. `shown` is what messages call the file.

    Raises `InputError` that names every entry that is neither.
    """
    if not path.is_file():
        raise InputError(f"config: texts: there is no file {shown}.")
    data = read_data(path, shown)
    if not isinstance(data, Mapping) or not data or len(data) > MOST_TEXTS:
        raise InputError(f"{shown}: it must hold 1 to {MOST_TEXTS} names, each with token ids or words.")
    faults = []
    for name, text in data.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            faults.append(f"{name!r} must be letters, digits, _, . and - only, at most 64")
        elif isinstance(text, str):
            continue
        elif not isinstance(text, list) or not all(type(one) is int and one >= 0 for one in text):
            faults.append(f"{name}: it must be a list of token ids, or words in quotes")
        elif len(text) > MOST_IDS:
            faults.append(f"{name}: it has more than {MOST_IDS} token ids")
    if faults:
        raise InputError(f"{shown}: {'; '.join(faults)}.")
    return dict(data)


def texts_file(config: Mapping[str, object], root: Path) -> Path:
    """Where the texts of a config are: from the working directory, or else from the project at `root`."""
    path = Path(str(config["texts"])).expanduser()
    return path if path.is_file() else root / path
