"""A checkpoint as a mapping of names to lazy tensors."""

from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from vit2onnx.checkpoints.heads import read_heads
from vit2onnx.checkpoints.torch_file import Head
from vit2onnx.errors import InputError
from vit2onnx.weights.keytable import LazyTensor


def open_checkpoint(path: Path) -> dict[str, LazyTensor]:
    """All tensors of a checkpoint, each read when it is asked for. Raises `InputError` as `read_heads` does."""
    return {name: lazy(head) for name, head in read_heads(path).items()}


def lazy(head: Head) -> LazyTensor:
    """A tensor that is read when it is asked for. One that cannot be read has the reason in place of a dtype."""
    if head.offset < 0:
        return LazyTensor(head.shape, head.dtype, partial(_refuse, head))
    if head.strides is None:
        return LazyTensor.in_file(head.file, head.offset, head.shape, head.dtype)
    return LazyTensor(head.shape, head.dtype, partial(_read_strided, head))


def _refuse(head: Head) -> NoReturn:
    raise InputError(f"{head.file} holds a tensor that is {head.dtype}; give plain weights instead.")


def _read_strided(head: Head) -> np.ndarray:
    """Read a tensor that was saved transposed, or with its channels last: its elements are in another order."""
    flat = np.fromfile(head.file, head.dtype, count=head.extent, offset=head.offset)
    strides = [stride * flat.itemsize for stride in head.strides or ()]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, head.shape, strides)).reshape(head.shape)
