"""The texts that the config names: as token ids, or as words. Standard library and PyYAML only."""

import re
from collections.abc import Mapping
from pathlib import Path
from random import Random

from vit2onnx.errors import InputError
from vit2onnx.spec.plain_data import read_data

# The ids of Gemma's tokenizer that end a text and fill it up.
EOS, PAD = 1, 0
# Names of texts, as of photographs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# A text of more tokens is cut anyhow.
MOST_IDS, MOST_TEXTS = 4096, 1000


# Token ids, words, or a number of random ids.
Text = list[int] | str | int


def random_ids(name: str, count: int, vocabulary: int) -> list[int]:
    """So many ids of a vocabulary, always the same for a name. Those of special tokens are not among them."""
    draw = Random(name)
    return [draw.randrange(3, vocabulary) for _ in range(count)]


def texts_in(path: Path, shown: str) -> dict[str, Text]:
    """The texts of a file by name. `shown` is what messages call the file.

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
        elif isinstance(text, Mapping):
            count = text.get("tokens")
            if text.keys() != {"tokens"} or type(count) is not int or not 0 <= count <= MOST_IDS:
                faults.append(f"{name}: it must be tokens with a number from 0 to {MOST_IDS}, as in {{tokens: 9}}")
        elif not isinstance(text, list) or not all(type(one) is int and one >= 0 for one in text):
            faults.append(f"{name}: it must be a list of token ids, words in quotes, or {{tokens: 9}}")
        elif len(text) > MOST_IDS:
            faults.append(f"{name}: it has more than {MOST_IDS} token ids")
    if faults:
        raise InputError(f"{shown}: {'; '.join(faults)}.")
    return {name: text["tokens"] if isinstance(text, Mapping) else text for name, text in data.items()}


def texts_file(config: Mapping[str, object], root: Path) -> Path:
    """Where the texts of a config are: from the working directory, or else from the project at `root`."""
    path = Path(str(config["texts"])).expanduser()
    return path if path.is_file() else root / path
