"""Checkpoints with synthetic weights: the publisher's names, shapes and dtypes, and values that hide no fault.

A freshly initialised model is too tame to test with: its LayerScale of 1e-5 mutes every block, its biases are zero
and its norms are identities. Here every tensor matters, so that a wrong key, mask, order, epsilon or transpose shows.
"""

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vit2onnx.checkpoints.detect import tables_of
from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.files import atomic
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import archive_skeleton
from vit2onnx.weights.keytable import KeyTable, Shape, assign
from vit2onnx.weights.leaves import array_shapes, npy_header


def synthetic_value(family: str, name: str, shape: Shape, seed: int) -> np.ndarray:
    """The value of one archive leaf, float32, the same for the same name, shape and seed.

    Scales are chosen so that activations stay near one through any number of blocks while every tensor changes
    the features by far more than rounding does.
    """
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
    own: np.ndarray | None = part(family, "layouts").synthetic_value(name, noise)
    if own is not None:
        return own
    leaf = name.rpartition(".")[2]
    if leaf == "gamma":
        return np.sign(noise) * (0.1 + 0.1 * np.abs(noise))
    if re.search(r"norm\.weight$", name):
        return 1 + 0.2 * noise
    if leaf == "bias":
        return 0.2 * noise
    if leaf == "weight":
        return noise / np.float32(np.sqrt(np.prod(shape[1:])))
    return noise


def synthetic_tensors(spec: VariantSpec, *, seed: int, layout: str) -> Iterator[tuple[str, np.ndarray]]:
    """All tensors of a synthetic checkpoint by their names in a layout, one at a time.

    Of a tensor that fills several leaves, the parts are kept until the last is there.
    """
    table = tables_of(spec)[layout]
    parts: dict[str, dict[int, np.ndarray]] = {}
    for assignment in assign(table, array_shapes(archive_skeleton(spec))):
        transform = assignment.transform
        value = _value(spec, assignment.target, assignment.shape, seed)
        sources = [np.ascontiguousarray(source) for source in transform.invert(value)]
        if transform.part:
            (key,), (index, count) = assignment.sources, transform.part
            found = parts.setdefault(key, {})
            found[index] = sources[0]
            if len(found) < count:
                continue
            sources = [np.concatenate([piece for _, piece in sorted(parts.pop(key).items())])]
        if transform.fill_unused:
            # What is not used is large, so that a reader that uses it is far off.
            transform.fill_unused(sources, 3 * _value(spec, assignment.sources[-1], sources[-1].shape, seed))
        # Not strict, because `invert` leaves out sources that other lines give.
        yield from zip(assignment.sources, sources, strict=False)
        for key, entry in table.ignored.items():
            if entry.same_as in assignment.sources:
                yield key, sources[assignment.sources.index(entry.same_as)]
    for key, entry in table.ignored.items():
        if entry.is_weight and not entry.same_as:
            # By its name without what a layout puts before it, so that it has the same value in every layout.
            yield key, _value(spec, key.removeprefix("embeddings."), entry.shape, seed)


def _value(spec: VariantSpec, name: str, shape: Shape, seed: int) -> np.ndarray:
    """The synthetic value of a leaf of a variant in float32. Not copied, because a table of tokens has a gigabyte."""
    return synthetic_value(spec.family, name, shape, seed).astype(np.float32, copy=False)


def write_synthetic(spec: VariantSpec, path: Path, *, seed: int, layout: str) -> None:
    """Write a synthetic checkpoint of a variant in one of its layouts, as `.pth`, `.npz` or safetensors.

    Raises `InputError` if the layout cannot hold the variant.
    """
    table = tables_of(spec).get(layout)
    if table is None:
        raise InputError(
            f"{spec.name} has no {layout} layout, only {', '.join(tables_of(spec))}; set synthetic.layout."
        )
    tensors = synthetic_tensors(spec, seed=seed, layout=layout)
    suffix = part(spec.family, "architecture").LAYOUTS[layout]
    with atomic(path) as new:
        if suffix == ".npz":
            _write_npz(new, tensors)
            return
        shapes = _shapes_of(spec, table)
        offsets = (_reserve_torch if suffix == ".pth" else _reserve_safetensors)(new, shapes)
        checksums = {}
        with new.open("r+b") as file:
            for key, value in tensors:
                file.seek(offsets[key])
                file.write(value.reshape(-1).data)
                checksums[key] = zlib.crc32(value.reshape(-1).data)
            if suffix == ".pth":
                # Torch numbers the records in the order of the tensors.
                _write_checksums(file, {f"archive/data/{i}": (offsets[k], checksums[k]) for i, k in enumerate(shapes)})


def _shapes_of(spec: VariantSpec, table: KeyTable) -> dict[str, Shape]:
    """The names and shapes of a synthetic checkpoint in a layout."""
    shapes: dict[str, Shape] = {}
    for assignment in assign(table, array_shapes(archive_skeleton(spec))):
        shapes |= zip(assignment.sources, assignment.transform.shapes(assignment.shape), strict=True)
    return shapes | {key: entry.shape for key, entry in table.ignored.items() if entry.is_weight}


def _write_npz(path: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write arrays as `numpy.savez` does, each when it is made. The time in the file is the zip format's first."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in tensors:
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as record:
                record.write(npy_header(value.shape))
                record.write(value.reshape(-1).data)


def _reserve_torch(path: Path, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Write a torch file with room for tensors of these shapes, and tell where each goes."""
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        # A file object, because with a path torch writes the file's name into it.
        with path.open("wb") as file:
            torch.save(state, file)
    return {key: tensor.offset or 0 for key, tensor in open_checkpoint(path).items()}


def _write_checksums(file: IO[bytes], found: Mapping[str, tuple[int, int]]) -> None:
    """Write the checksums of a zip's records, given with their offsets, behind each and into the directory."""
    with zipfile.ZipFile(file) as archive:
        entry, records = archive.start_dir, archive.infolist()
    for record in records:
        file.seek(entry + 28)
        lengths = struct.unpack("<HHH", file.read(6))
        if record.filename in found:
            offset, checksum = found[record.filename]
            for place in (offset + record.file_size + 4, entry + 16):
                file.seek(place)
                file.write(checksum.to_bytes(4, "little"))
        entry += 46 + sum(lengths)


def _reserve_safetensors(path: Path, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Write the head of a safetensors file and reserve the rest, and tell where each tensor goes.

    Source: github.com/huggingface/safetensors, "Format".
    """
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        head[key] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(head).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(start + end)
    return {key: start + head[key]["data_offsets"][0] for key in shapes}
