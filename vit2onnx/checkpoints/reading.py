"""A checkpoint as a mapping of names to lazy tensors."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from vit2onnx.checkpoints.backbone import backbone_of, beside, is_ignored
from vit2onnx.checkpoints.head import Head
from vit2onnx.checkpoints.heads import files_of, read_heads
from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.keytable import LazyTensor


@dataclass(frozen=True)
class Opened:
    """The tensors of a checkpoint that belong to a variant, by the names of their layout, and the file's other tensors.

    `origins` has the file's own names where they differ. `left_out` has the tensors that are left out, each with the
    user's pattern, or with an empty one if it belongs to the whole model but not to the chosen tower. `inside` has the
    backbone's names of those that a pattern took out of it. `beside` has the names of all others in the mapping that
    holds the backbone.
    """

    path: Path
    tensors: Mapping[str, LazyTensor]
    origins: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, LazyTensor]] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    def name(self, key: str) -> str:
        """What a tensor is called in the file."""
        return self.origins.get(key, key)


def open_checkpoint(path: Path) -> dict[str, LazyTensor]:
    """All tensors of a checkpoint, each read when it is asked for. Raises `InputError` as `read_heads` does."""
    return {name: lazy(head) for name, head in read_heads(path).items()}


def open_variant(spec: VariantSpec, path: Path) -> Opened:
    """The checkpoint of a variant. If it is the user's own, the tensors are those of its backbone."""
    if spec.own is None:
        return Opened(path, open_checkpoint(path))
    heads = read_heads(path)
    backbone = backbone_of(path, heads, spec.own.prefix)
    patterns = spec.own.ignore
    left_out = {name: pattern for name in heads if (pattern := is_ignored(name, patterns))}
    if unused := [pattern for pattern in patterns if pattern not in left_out.values()]:
        raise InputError(f"{spec.own.path}: ignore: {', '.join(unused)} fits no tensor; remove it.")
    inner = {key: name for key, name in backbone.names.items() if name not in left_out}
    return Opened(
        path,
        {key: lazy(heads[name]) for key, name in inner.items()},
        {key: name for key, name in inner.items() if key != name},
        {name: (pattern, lazy(heads[name])) for name, pattern in (dict.fromkeys(backbone.rest, "") | left_out).items()},
        {name: key for key, name in backbone.names.items() if name in left_out},
        tuple(name for name in beside(heads, backbone) if name not in left_out),
    )


def checksum(path: Path) -> str:
    """The SHA-256 of a checkpoint; of several files, that of the list of their names with the SHA-256 of each."""
    files = files_of(path)
    if len(files) == 1:
        return sha256_of(files[0])
    return hashlib.sha256("".join(f"{sha256_of(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def lazy(head: Head) -> LazyTensor:
    """A tensor that is read when it is asked for. Raises `InputError` then if it cannot be read."""
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
