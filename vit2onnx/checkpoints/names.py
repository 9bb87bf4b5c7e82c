"""The names that checkpoints have at their publishers and on the Hugging Face hub.

Standard library only, because the Snakefile imports this module.
"""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vit2onnx.checkpoints.heads import INDEX_SUFFIX, SUFFIXES, files_of
from vit2onnx.errors import InputError
from vit2onnx.spec.variant import VariantSpec

HUGGINGFACE_FILE = "model.safetensors"
# Where the tensors are in several files, this says which one holds each.
HUGGINGFACE_INDEX = HUGGINGFACE_FILE + INDEX_SUFFIX
# A file's name that was made from a link with its query, and where the query begins. Windows has no ? in names.
QUERIED = re.compile(r"\?|%3F|(?:Policy|Signature|Key-Pair-Id|Expires|X-Amz-\w+|token)=", re.IGNORECASE)
QUERY = re.compile(r"[?@&]|%3F|\W?[\w-]+=", re.IGNORECASE)


def is_named_after(spec: VariantSpec, path: str) -> bool:
    """Whether the file's stem is the variant's name or its publisher's, alone or with the eight digits of a hash."""
    file = PurePosixPath(unquote(path))
    names = "|".join(map(re.escape, names_of(spec)))
    return file.suffix in SUFFIXES and bool(re.fullmatch(f"({names})(-[0-9a-f]{{8}})?", file.stem))


def names_of(spec: VariantSpec) -> list[str]:
    """What files of a variant are called, without digits of a hash: by its own name, and by its publisher."""
    return list(dict.fromkeys([spec.name, *([published_name(spec.released.file)] if spec.released else [])]))


def published_name(file: str) -> str:
    """The stem of a publisher's file, without digits of a hash."""
    return re.sub(r"-[0-9a-f]{8}$", "", PurePosixPath(file).stem)


def without_query(url: str) -> str:
    """Scheme, host and path of a link, which may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def without_signature(name: str) -> str:
    """The name of a file without the query of the link that it was made from, which may hold a signature."""
    query = QUERY.search(name) if QUERIED.search(name) else None
    return name[: query.start()] if query else name


def is_complete(index: Path) -> bool:
    """Whether all files that an index names lie beside it."""
    try:
        return index.is_file() and all(map(is_file, files_of(index)))
    except (InputError, OSError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file that is not empty, because a browser reserves a name with an empty one."""
    return path.is_file() and path.stat().st_size > 0


def listed(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is not there, or not ours to read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
