"""Open a published checkpoint as a mapping of names to lazy tensors, without running any code in it."""

import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vit2onnx.errors import InputError
from vit2onnx.weights.keytable import LazyTensor, Shape

# How torch's files begin: those of today, and those of torch before 1.6.
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
# Numpy's names for the dtypes of safetensors.
SAFETENSORS_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
    **{f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def open_checkpoint(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a `.pth` or `.safetensors` file, told apart by their content and not by their name.

    Raises `InputError` for anything else: an empty or truncated file, a web page, a Git LFS pointer, a pickle
    that holds more than tensors.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise InputError(f"{path} is empty; download or copy the checkpoint again.")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"{path} is a web page and not a checkpoint, as happens when a link has expired or asks to log in;"
            " delete it and download the checkpoint again."
        )
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer and not the file itself; run 'git lfs pull' beside it.")
    # Before the pickle, because the length that stands before the brace may begin like one.
    if head[8:9] == b"{":
        return _open_safetensors(path)
    if head.startswith((ZIP, PICKLE)):
        return _open_torch(path, is_zip=head.startswith(ZIP))
    raise InputError(f"{path} is neither a PyTorch nor a safetensors file; download or copy it again.")


def _open_torch(path: Path, *, is_zip: bool) -> dict[str, LazyTensor]:
    try:
        records = _records(path) if is_zip else {}
        with path.open("rb") as file:
            # Given the file and not its path, because torch takes a name's ending for its format. Without the values,
            # which are read from the file one at a time.
            state = torch.load(file, map_location="meta" if is_zip else "cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged or holds Python objects other than tensors, which could run code, and was not loaded;"
            " get the checkpoint from its publisher."
        ) from error
    except NotImplementedError as error:
        raise InputError(f"{path} holds tensors that are quantized or nested; give plain weights instead.") from error
    # Any exception, because what torch raises depends on which byte is broken: IndexError, struct.error and others.
    except Exception as error:
        raise InputError(f"{path} is damaged or truncated; download or copy the checkpoint again.") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise InputError(f"{path} is no flat mapping of names to tensors; give the file as its publisher offers it.")
    return {name: _lazy(path, name, tensor, records) for name, tensor in state.items()}


def _records(path: Path) -> dict[int, int]:
    """Where the uncompressed records of a torch file's zip begin, and their sizes."""
    records = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for record in archive.infolist():
            # Torch swaps the bytes of tensors that it was told not to read, which ends the process.
            if record.filename.endswith("/byteorder") and archive.read(record) != b"little":
                raise InputError(f"{path} was written on a big-endian machine; save it again on a usual one.")
            if record.compress_type == zipfile.ZIP_STORED:
                file.seek(record.header_offset + 26)
                name, extra = struct.unpack("<HH", file.read(4))
                records[record.header_offset + 30 + name + extra] = record.file_size
    return records


def _lazy(path: Path, name: str, tensor: torch.Tensor, records: Mapping[int, int]) -> LazyTensor:
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    plain = tensor.layout is torch.strided and not tensor.is_neg()
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None) if plain else None
    if not plain or (tensor.is_meta and start is None):
        raise InputError(f"{path}: tensor {name} is sparse or without values; give plain weights instead.")
    if start is None:
        # Torch's format of before 1.6 is loaded as a whole.
        return LazyTensor(shape, dtype, partial(to_numpy, tensor))
    offset = start + tensor.storage_offset() * tensor.element_size()
    # Torch computes where a record begins and does not look, which is wrong once another program has packed the file.
    if offset + _extent(shape, tensor.stride()) * tensor.element_size() > start + records.get(start, -1):
        raise InputError(
            f"{path}: tensor {name} is not where torch puts it, because the file is damaged or was packed anew;"
            " give the file as its publisher offers it."
        )
    if tensor.is_contiguous():
        return LazyTensor.in_file(path, offset, shape, dtype)
    return LazyTensor(shape, dtype, partial(_read_strided, path, offset, shape, dtype, tensor.stride()))


def _extent(shape: Shape, strides: Shape) -> int:
    """How many elements lie between a tensor's first and last, both included."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if 0 not in shape else 0


def _read_strided(path: Path, offset: int, shape: Shape, dtype: str, strides: Shape) -> np.ndarray:
    """Read a tensor that was saved transposed, or with its channels last: its elements are in another order."""
    flat = np.fromfile(path, dtype, count=_extent(shape, strides), offset=offset)
    return np.lib.stride_tricks.as_strided(flat, shape, [stride * flat.itemsize for stride in strides]).copy("C")


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    try:
        # Only to check the file: its tensors would stay in memory once they are read.
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or truncated; download or copy the checkpoint again.") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        head = json.loads(file.read(length))
    head.pop("__metadata__", None)
    return {
        name: LazyTensor.in_file(
            path,
            8 + length + entry["data_offsets"][0],
            tuple(entry["shape"]),
            SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"]),
        )
        for name, entry in head.items()
    }


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as numpy array, bfloat16 included, which torch itself does not hand over."""
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()
