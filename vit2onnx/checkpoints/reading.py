"""Open a published checkpoint as a mapping of names to lazy tensors, without running any code in it."""

import pickle
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vit2onnx.errors import InputError
from vit2onnx.keytable import LazyTensor

# How torch's files begin: those of today, and those of torch before 1.6.
ZIP, PICKLE = b"PK\x03\x04", b"\x80"


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
        return _open_torch(path, mmap=head.startswith(ZIP))
    raise InputError(f"{path} is neither a PyTorch nor a safetensors file; download or copy it again.")


def _open_torch(path: Path, *, mmap: bool) -> dict[str, LazyTensor]:
    # Not the path where it ends like this, because torch.load then takes the name's word for the content.
    misnamed = path.name.endswith(".safetensors")
    try:
        with path.open("rb") as file:
            state = torch.load(
                file if misnamed else path, map_location="cpu", weights_only=True, mmap=mmap and not misnamed
            )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged or holds Python objects other than tensors, which could run code, and was not loaded;"
            " get the checkpoint from its publisher."
        ) from error
    # Any exception, because what torch raises depends on which byte is broken: IndexError, struct.error and others.
    except Exception as error:
        raise InputError(f"{path} is damaged or truncated; download or copy the checkpoint again.") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
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
        return tensor.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()
