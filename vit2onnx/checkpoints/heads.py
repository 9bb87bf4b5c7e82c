"""Where every tensor of a checkpoint lies: names, shapes, dtypes and places, but no values. No code in a file is run.

Standard library only, because the Snakefile imports this module. Nothing is inflated, and nothing is allocated by a
size that a file only declares.
"""

import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

from vit2onnx.checkpoints.head import BYTES, LONGEST_HEAD, MOST_TENSORS, Head, damaged
from vit2onnx.checkpoints.numpy_file import is_npz, read_npz
from vit2onnx.checkpoints.torch_file import PICKLE, read_legacy, read_zip
from vit2onnx.checkpoints.zip_file import ZIP, records_of
from vit2onnx.errors import InputError, first_few

# Numpy's names for the dtypes of safetensors.
SAFETENSORS_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
# The name of a checkpoint among the results.
LINK = "checkpoint"
# How the names of checkpoints end. An index names the shard of every tensor; a shard has a number.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz")
INDEX_SUFFIX = ".index.json"
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


def followed(path: Path) -> Path:
    """Where the link `checkpoint` among the results leads: shards lie beside their index, and not beside the link."""
    return path.parent / path.readlink() if path.name == LINK and path.is_symlink() else path


def read_heads(path: Path) -> dict[str, Head]:
    """All tensors of a checkpoint by name: of a file of torch, safetensors or numpy (`.npz`), or all shards.

    Formats are recognised by content and not by the file's name. In nested mappings a name is the path to the tensor,
    joined with dots. Raises `InputError` for anything else, such as a truncated file, a web page or a Git LFS pointer.
    """
    path = followed(path)
    if not path.is_file():
        raise InputError(
            f"{path} is {'no file' if path.exists() else 'not there'}; name the file of a checkpoint, or its folder."
        )
    files = _shards(path)
    if files == [path]:
        return _read_one(path)
    found: dict[str, Head] = {}
    for file in files:
        for name, head in _read_one(file).items():
            if name in found:
                raise InputError(f"{path}: tensor {name} is in {found[name].file.name} and in {file.name}.")
            found[name] = head
    if path.name.endswith(INDEX_SUFFIX):
        listed = _weight_map(path)
        wrong = [name for name, file in listed.items() if name not in found or found[name].file.name != file]
        if wrong or found.keys() != listed.keys():
            wrong = wrong or sorted(found.keys() - listed.keys())
            raise InputError(f"{path} and its shards do not agree on {first_few(wrong)}; download all files again.")
    return found


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, or its index and all shards. Raises `InputError` if one is missing."""
    path = followed(path)
    shards = _shards(path)
    return [path, *shards] if path.name.endswith(INDEX_SUFFIX) else shards


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index names; all lie beside it."""
    return sorted(set(_weight_map(index).values()))


def _shards(path: Path) -> list[Path]:
    if path.name.endswith(INDEX_SUFFIX):
        names = shards_of(path)
    elif match := SHARD.fullmatch(path.name):
        count = int(match["count"])
        if not 1 <= count <= 10_000:
            raise InputError(f"{path} says that it is one of {count} shards; download all files again.")
        names = [f"{match['stem']}-{number:05}-of-{match['count']}{match['suffix']}" for number in range(1, count + 1)]
    else:
        return [path]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{path.parent} lacks {len(missing)} of {len(names)} shards: {first_few(missing)}; download the missing"
            " files."
        )
    return [path.parent / name for name in names]


def _weight_map(path: Path) -> dict[str, str]:
    listed = read_mapping(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        listed = {}
    if not 0 < len(listed) <= MOST_TENSORS:
        raise InputError(f"{path} has no weight_map with the file of every tensor; download it again.")
    if bad := next((file for file in listed.values() if file in ("", ".", "..") or Path(file).name != file), None):
        raise InputError(f"{path} names a shard in another folder, {bad!r}; shards must lie beside their index.")
    return listed


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file beside a checkpoint. Raises `InputError` if it holds no mapping, or one that has a name twice."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_HEAD + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    if len(text) > LONGEST_HEAD:
        raise damaged(path, f"it has more than the {LONGEST_HEAD} bytes that are read")
    data = _json(path, text)
    if not isinstance(data, dict):
        raise damaged(path, "it holds no mapping")
    return data


def _json(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=partial(_unique, path))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"no JSON: {type(error).__name__}") from None


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise damaged(path, "a name is there twice")
    return found


# How files of other formats begin, and what messages call them.
OTHER_FORMATS = (
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "a Keras or HDF5 file"),
    (b"\x93NUMPY", "a single numpy array"),
    (b"\x1f\x8b", "packed with gzip"),
    (b"BZh", "packed with bzip2"),
    (b"\xfd7zXZ", "packed with xz"),
    (b"7z\xbc\xaf", "packed with 7-Zip"),
    (b"Rar!", "packed with RAR"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd"),
    (b"\x04\x22\x4d\x18", "packed with lz4"),
    (b"\xff\xd8\xff", "a photograph"),
    (b"\x89PNG", "a picture"),
)


def _read_one(path: Path) -> dict[str, Head]:
    """The tensors of one file, told apart by its content and not by its name."""
    try:
        with path.open("rb") as file:
            opening = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    if not opening:
        raise InputError(f"{path} is empty; download or copy the checkpoint again.")
    if opening.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"{path} is a web page and not a checkpoint, as happens when a link has expired or asks to log in;"
            " delete it and download the checkpoint again."
        )
    if opening.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer and not the file itself; run 'git lfs pull' beside it.")
    # Before the pickle, because the length that stands before the brace may begin like one.
    if opening[8:9] == b"{":
        return _read_safetensors(path)
    if opening.startswith(ZIP):
        records = records_of(path)
        return read_npz(path, records) if is_npz(records) else read_zip(path, records)
    if opening.startswith(PICKLE):
        return read_legacy(path)
    what = next((what for start, what in OTHER_FORMATS if opening.startswith(start)), None)
    what = what or ("a tar archive" if opening[257:262] == b"ustar" else None)
    if what:
        raise InputError(f"{path} is {what}, not a PyTorch or safetensors file; unpack it, or save it as one of these.")
    raise InputError(f"{path} is neither a PyTorch nor a safetensors file; download or copy it again.")


def _read_safetensors(path: Path) -> dict[str, Head]:
    """Source: github.com/huggingface/safetensors, "Format"."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LONGEST_HEAD):
            raise damaged(path, f"its header should be {length} bytes long")
        head = _json(path, file.read(length))
    if not isinstance(head, dict) or len(head) > MOST_TENSORS:
        raise damaged(path, f"its header is no mapping of at most {MOST_TENSORS} names")
    head.pop("__metadata__", None)
    found: dict[str, Head] = {}
    spans = []
    for name, entry in head.items():
        try:
            shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
            dtype = SAFETENSORS_DTYPES.get(entry["dtype"], str(entry["dtype"]))
            numbers = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        except (TypeError, KeyError, ValueError):
            raise damaged(path, f"of tensor {name}") from None
        if not numbers or (dtype in BYTES and end - begin != math.prod(shape) * BYTES[dtype]):
            raise damaged(path, f"tensor {name} has not the size that its shape gives")
        spans.append((begin, end))
        found[name] = Head(path, shape, dtype, 8 + length + begin)
    last = 0
    for begin, end in sorted(spans):
        if begin != last or end < begin:
            raise damaged(path, "its tensors do not follow one another")
        last = end
    if 8 + length + last != size:
        raise damaged(path, f"it should be {8 + length + last} bytes long and is {size}")
    return found
