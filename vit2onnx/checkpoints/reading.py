"""Open a published checkpoint as a mapping of names to lazy tensors, without running any code in it."""

import pickle
import zipfile
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vit2onnx.errors import InputError
from vit2onnx.keytable import LazyTensor


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
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _open_torch(path)
    if head[8:9] == b"{":
        return _open_safetensors(path)
    raise InputError(f"{path} is neither a PyTorch nor a safetensors file; download or copy it again.")


def _open_torch(path: Path) -> dict[str, LazyTensor]:
    is_zip = zipfile.is_zipfile(path)
    if not is_zip and path.open("rb").read(1) == b"P":
        raise InputError(f"{path} is truncated; download or copy the checkpoint again.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects other than tensors, which could run code, and was not loaded; get the"
            " checkpoint from its publisher."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged; download or copy the checkpoint again.") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise InputError(f"{path} is no flat mapping of names to tensors; give the file as its publisher offers it.")
    return {
        name: LazyTensor(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), partial(to_numpy, tensor))
        for name, tensor in state.items()
    }


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    try:
        # Torch tensors, because the numpy reader knows no bfloat16.
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or truncated; download or copy the checkpoint again.") from error
    dtypes = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

    def read(name: str) -> np.ndarray:
        return to_numpy(file.get_tensor(name))

    tensors = {}
    for name in list(file.keys()):
        view = file.get_slice(name)
        dtype = view.get_dtype()
        tensors[name] = LazyTensor(tuple(view.get_shape()), dtypes.get(dtype, dtype), partial(read, name))
    return tensors


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as numpy array, bfloat16 included, which torch itself does not hand over."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
