"""By which names a checkpoint is known: those of its publisher, of the Hugging Face hub, and of the shards of one.

Standard library only, because the Snakefile imports this module.
"""

import json
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vit2onnx.errors import InputError
from vit2onnx.spec.variant import VariantSpec

SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".ckpt")
HUGGINGFACE_FILE = "model.safetensors"
# What stands in place of that file where its tensors are in several: says which tensor is in which file.
HUGGINGFACE_INDEX = "model.safetensors.index.json"
MOST_INDEX_BYTES = 1 << 26
MOST_SHARDS = 1000


def is_named_after(spec: VariantSpec, path: str) -> bool:
    """Whether the file's stem is the variant's name, alone or with the eight digits of a hash."""
    file = PurePosixPath(unquote(path))
    return file.suffix in SUFFIXES and bool(re.fullmatch(f"{re.escape(spec.name)}(-[0-9a-f]{{8}})?", file.stem))


def without_query(url: str) -> str:
    """Scheme, host and path of a link, which may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index names, which lie beside it.

    Raises `InputError` if it is no index, or if a name leads elsewhere.
    """
    try:
        with index.open("rb") as file:
            found = json.loads(file.read(MOST_INDEX_BYTES))["weight_map"].values()
        names = sorted(set(found))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = []
    if not 0 < len(names) <= MOST_SHARDS or not all(re.fullmatch(r"\w[\w.-]*\.safetensors", name) for name in names):
        raise InputError(f"{index} is no index of a sharded checkpoint; download it again.")
    return names
