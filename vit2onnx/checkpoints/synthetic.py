"""Checkpoints with synthetic weights: the publisher's names, shapes and dtypes, and values that hide no fault.

A freshly initialised model is too tame to test with: its LayerScale of 1e-5 mutes every block, its biases are zero
and its norms are identities. Here every tensor matters, so that a wrong key, mask, order, epsilon or transpose shows.
"""

import re
import zlib
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

from vit2onnx.archive import archive_skeleton, array_shapes
from vit2onnx.checkpoints.layouts import tables_of
from vit2onnx.checkpoints.layouts.dinov3_vit import rope_periods
from vit2onnx.checkpoints.sources import SUFFIX_OF_LAYOUT
from vit2onnx.files import atomic
from vit2onnx.keytable import Shape, assign
from vit2onnx.variants import VariantSpec


def synthetic_value(name: str, shape: Shape, seed: int) -> np.ndarray:
    """The value of one archive leaf, float32, the same for the same name, shape and seed.

    Scales are chosen so that activations stay near one through any number of blocks while every tensor changes
    the features by far more than rounding does.
    """
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
    leaf = name.rpartition(".")[2]
    if leaf in ("freqs", "periods"):
        return rope_periods(shape[0], "bfloat16")
    if leaf == "gamma":
        return np.sign(noise) * (0.1 + 0.1 * np.abs(noise))
    if re.search(r"norm\.weight$", name):
        return 1 + 0.2 * noise
    if leaf == "bias":
        if ".qkv." in name:
            noise[shape[0] // 3 : 2 * shape[0] // 3] = 0
        return 0.2 * noise
    if leaf == "weight":
        return noise / np.float32(np.sqrt(np.prod(shape[1:])))
    return noise


def write_synthetic(spec: VariantSpec, path: Path, *, seed: int, layout: str) -> None:
    """Write a synthetic checkpoint of a variant in one of its layouts: `.pth` for Meta's, else safetensors."""
    table = tables_of(spec)[layout]
    tensors: dict[str, np.ndarray] = {}
    for assignment in assign(table, array_shapes(archive_skeleton(spec))):
        value = synthetic_value(assignment.target, assignment.shape, seed).astype(np.float32)
        sources = assignment.transform.invert(value)
        tensors.update(zip(assignment.sources, map(np.ascontiguousarray, sources), strict=True))
    for key, entry in table.ignored.items():
        tensors[key] = tensors[entry.same_as] if entry.same_as else synthetic_value(key, entry.shape, seed)
    for key, mask in tensors.items():
        if key.endswith("bias_mask"):
            # What the mask removes is large, so that a reader that forgets the mask is far off.
            bias = tensors[key.removesuffix("_mask")]
            junk = synthetic_value(key, bias.shape, seed)
            bias[mask == 0] = 3 * junk[mask == 0]
    with atomic(path) as new:
        if SUFFIX_OF_LAYOUT[layout] == ".pth":
            # A file object, because with a path torch writes the file's name into it.
            with new.open("wb") as file:
                torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, file)
        else:
            safetensors.numpy.save_file(tensors, new, metadata={"format": "pt"})
