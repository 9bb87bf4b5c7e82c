"""The two files that hold weights on their way: the Equinox archive and the `.eqx` model file.

The archive, `.tar.lz4`, is Equimo's format: `metadata.json` with the arguments of its `VisionTransformer`, and
`weights.eqx` with all leaves of that class in tree order. The model file starts with one line of JSON that says what
it holds, then come the leaves of our model. Both are written leaf by leaf and contain nothing but what follows from
the weights and, in the archive, the versions of the tools, so the same weights give the same bytes.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, TypeVar

import equinox as eqx
import jax
import lz4.frame
import numpy as np

from vit2onnx.errors import InputError, InternalError
from vit2onnx.families.models import Model, build
from vit2onnx.spec.variant import VariantSpec, ViTArchitecture, architecture_from_mapping
from vit2onnx.weights.keytable import LazyTensor, Shape

CHUNK = 1 << 20
T = TypeVar("T")


def ahead(items: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
    """The items, the next chunk of which is made in a second thread while the one before it is in use.

    A chunk ends with the item that fills it, so large items are made one at a time and small ones hold up nothing.
    """
    rest = iter(items)

    def make() -> list[T]:
        chunk, filled = [], 0
        for item in rest:
            chunk.append(item)
            filled += size(item)
            if filled >= CHUNK:
                break
        return chunk

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make)
        while chunk := coming.result():
            coming = pool.submit(make)
            yield from chunk


def leaf_size(leaf: tuple[str, np.ndarray]) -> int:
    """The bytes of a named array."""
    return leaf[1].nbytes


def leaf_names(tree: Any) -> list[str]:
    """The path of every leaf of a tree, as in `blocks.0.attn.qkv.weight`, in tree order."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def array_shapes(tree: Any) -> dict[str, Shape]:
    """The shape of every array leaf by its path; Python numbers among the leaves are left out."""
    leaves = zip(leaf_names(tree), jax.tree_util.tree_leaves(tree), strict=True)
    return {name: tuple(leaf.shape) for name, leaf in leaves if hasattr(leaf, "shape")}


def equimo_config(arch: ViTArchitecture) -> dict[str, Any]:
    """The arguments of Equimo's `VisionTransformer` for a DINOv3 architecture."""
    return {
        "img_size": 224,
        "in_channels": 3,
        "patch_size": arch.patch_size,
        "dim": arch.embed_dim,
        "num_heads": arch.num_heads,
        "depths": [arch.depth],
        # Equimo takes the width of a SwiGLU before it is cut to two thirds.
        "mlp_ratio": arch.ffn_hidden / arch.embed_dim * (1.5 if arch.ffn == "swiglu" else 1.0),
        "ffn_layer": arch.ffn,
        "untie_global_and_local_cls_norm": arch.local_cls_norm,
        "qkv_bias": arch.qkv_bias,
        "reg_tokens": arch.num_registers,
        "use_mask_token": True,
        "use_global_pos_embed": False,
        "use_local_pos_embed": True,
        "dynamic_img_size": True,
        "act_layer": "exactgelu",
        "init_values": 1e-5,
        "eps": arch.norm_eps,
        "num_classes": 0,
    }


def archive_config(spec: VariantSpec) -> dict[str, Any]:
    """What `metadata.json` says of the model: Equimo's arguments, or the architecture where it has no such model."""
    arch = spec.architecture
    return equimo_config(arch) if isinstance(arch, ViTArchitecture) else asdict(arch)


@cache
def archive_skeleton(spec: VariantSpec) -> Any:
    """The tree of a variant's archive with a shape in place of every array: Equimo's, or our own model's."""
    if not isinstance(spec.architecture, ViTArchitecture):
        return build(spec.family, spec.architecture)
    from equimo.models import VisionTransformer

    config, key = equimo_config(spec.architecture), jax.random.PRNGKey(0)
    return eqx.filter_eval_shape(lambda: VisionTransformer(**config, key=key))


def npy_header(shape: Shape) -> bytes:
    """What stands before the bytes of a float32 array in the npy format."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def serialise(skeleton: Any, values: Iterable[tuple[str, np.ndarray]]) -> Iterator[bytes | memoryview]:
    """The bytes of an `.eqx` file, piece by piece, as `equinox.tree_serialise_leaves` writes them.

    `values` gives the array leaves in the skeleton's order; numbers among its leaves are taken from itself.
    Raises `InternalError` if it gives others.
    """
    arrays = iter(values)
    for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True):
        if hasattr(leaf, "shape"):
            found, value = next(arrays, (None, None))
            if value is None:
                raise InternalError(f"there is no value for {name}")
            if (found, value.shape, value.dtype) != (name, leaf.shape, leaf.dtype):
                given, wanted = f"{found} {value.shape} {value.dtype}", f"{name} {leaf.shape} {leaf.dtype}"
                raise InternalError(f"the next leaf is {given} instead of {wanted}")
            yield npy_header(value.shape)
            yield value.reshape(-1).data
        else:
            yield _number(leaf)
    if rest := [name for name, _ in arrays]:
        raise InternalError(f"there are values for {rest}, for which there is no leaf")


def _number(leaf: Any) -> bytes:
    """A Python number among the leaves, as Equinox writes it."""
    piece = io.BytesIO()
    eqx.default_serialise_filter_spec(piece, leaf)
    return piece.getvalue()


def eqx_size(skeleton: Any) -> int:
    """The size in bytes of an `.eqx` file."""
    return sum(
        len(npy_header(leaf.shape)) + 4 * int(np.prod(leaf.shape)) if hasattr(leaf, "shape") else len(_number(leaf))
        for leaf in jax.tree_util.tree_leaves(skeleton)
    )


def _tar_header(name: str, size: int) -> bytes:
    """What stands before a file in a tar; it carries no time, user or mode of this machine."""
    info = tarfile.TarInfo(name)
    info.size = size
    # GNU's format has room here for the size of any model.
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


class _Pieces(io.RawIOBase):
    """A file to read from whose content is made while it is read."""

    def __init__(self, pieces: Iterator[bytes | memoryview]):
        self.pieces = pieces
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self.rest = memoryview(piece).cast("B")
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count


def compress(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """An lz4 frame of the pieces. Not through `lz4.frame.open`, because its buffers take longer than compressing."""
    # Each chunk a block of its own, which takes a fifth less time than small linked ones. Not at a lower level, which
    # would be no faster for what cannot be compressed, and leave weights that are rounded to bfloat16 larger.
    compressor = lz4.frame.LZ4FrameCompressor(
        block_size=lz4.frame.BLOCKSIZE_MAX1MB, block_linked=False, content_checksum=True
    )
    yield compressor.begin()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for start in range(0, len(view), CHUNK):
            yield compressor.compress(view[start : start + CHUNK])
    yield compressor.flush()


def write_archive(path: Path, spec: VariantSpec, skeleton: Any, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the archive of a variant, holding two leaves in memory: one to be written and the next to be made."""
    metadata = {
        "model_config": archive_config(spec),
        "torch_hub_cfg": {},
        "timm": [],
        "jax_version": version("jax"),
        "equinox_version": version("equinox"),
        "equimo_version": version("equimo"),
        "vit2onnx": {"variant": spec.name, "family": spec.family},
    }
    text = json.dumps(metadata, indent=1).encode()
    size = eqx_size(skeleton)
    # Not through tarfile, because its buffers take longer than the compression.
    head = [_tar_header("metadata.json", len(text)), text, _padding(len(text)), _tar_header("weights.eqx", size)]
    tail = [_padding(size), bytes(2 * tarfile.BLOCKSIZE)]
    with path.open("wb") as file:
        for chunk in ahead(compress(itertools.chain(head, serialise(skeleton, ahead(values, leaf_size)), tail)), len):
            file.write(chunk)


def read_archive(path: Path, spec: VariantSpec) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an archive with their names, in its own order, one in memory at a time.

    Raises `InputError` if the archive is damaged, which may show at its end only, or holds another variant.
    """
    try:
        with path.open("rb") as file:
            stream = io.BufferedReader(_Pieces(_decompress(file)), CHUNK)
            size = _enter_member(stream, "metadata.json")
            metadata = json.loads(stream.read(size))
            found = metadata["vit2onnx"]["variant"], metadata["model_config"]
            if found != (spec.name, json.loads(json.dumps(archive_config(spec)))):
                raise InputError(
                    f"{path} holds {found[0]} and not {spec.name} as it is now; delete it and run again to rebuild it."
                )
            stream.read(len(_padding(size)))
            skeleton = archive_skeleton(spec)
            if _enter_member(stream, "weights.eqx") != eqx_size(skeleton):
                raise ValueError("its weights are of another size")
            yield from _read_leaves(stream, skeleton)
            if stream.read().strip(tarfile.NUL):
                raise ValueError("it holds more than metadata and weights")
    # Not OSError, because a full disk is no fault of the archive.
    except (RuntimeError, EOFError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run again to rebuild it.") from error


def _decompress(file: IO[bytes]) -> Iterator[bytes]:
    """The content of an lz4 frame. Not through `lz4.frame.open`, because that takes 8 KiB at a time."""
    decompressor = lz4.frame.LZ4FrameDecompressor()
    while chunk := file.read(CHUNK):
        yield decompressor.decompress(chunk)
    if not decompressor.eof:
        raise EOFError("the lz4 frame is truncated")


def _enter_member(stream: IO[bytes], name: str) -> int:
    """Read a tar header up to the member's content and return its size. Raises `ValueError` for another member."""
    info = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "strict")
    if info.name != name:
        raise ValueError(f"it holds {info.name} instead of {name}")
    return info.size


def _read_leaves(file: IO[bytes], skeleton: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True):
        shape, dtype = _read_npy_header(file, name, leaf)
        array = np.empty(shape, dtype)
        rest = array.reshape(-1).data.cast("B")
        while rest:
            count = file.readinto(rest)  # type: ignore[attr-defined]
            if not count:
                raise EOFError(f"it ends within {name}")
            rest = rest[count:]
        if hasattr(leaf, "shape"):
            yield name, array


def _read_npy_header(file: IO[bytes], name: str, leaf: Any) -> tuple[Shape, np.dtype[Any]]:
    """Shape and dtype of the next array. Raises `ValueError` if they are not those of the leaf `name`."""
    try:
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise ValueError(f"at leaf {name}") from error
    wanted = tuple(getattr(leaf, "shape", ())), getattr(leaf, "dtype", dtype)
    if version != (1, 0) or fortran or (shape, dtype) != wanted:
        raise ValueError(f"leaf {name} is {shape} {dtype}")
    return shape, dtype


def write_leaves(file: IO[bytes], skeleton: Any, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write an `.eqx` file from its current position on, as `equinox.tree_serialise_leaves` does.

    `values` gives the array leaves in any order; each is written to its place at once.
    Raises `InternalError` if a leaf is not given, is given twice, or is not of the skeleton.
    """
    offsets: dict[str, int] = {}
    leaves = dict(zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True))
    for name, leaf in leaves.items():
        if hasattr(leaf, "shape"):
            file.write(npy_header(leaf.shape))
            offsets[name] = file.tell()
            file.seek(4 * int(np.prod(leaf.shape)), io.SEEK_CUR)
        else:
            file.write(_number(leaf))
    end = file.tell()
    for name, value in ahead(values, leaf_size):
        if name not in offsets:
            raise InternalError(f"there is a value for {name}, which {'has one' if name in leaves else 'is no leaf'}")
        wanted = leaves[name].shape, leaves[name].dtype
        if (value.shape, value.dtype) != wanted:
            raise InternalError(f"{name} is {value.shape} {value.dtype} instead of {wanted[0]} {wanted[1]}")
        file.seek(offsets.pop(name))
        file.write(value.reshape(-1).data)
    if offsets:
        raise InternalError(f"there are no values for {list(offsets)}")
    file.truncate(end)


def write_model(path: Path, spec: VariantSpec, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the inference model of a variant: a line of JSON, then the leaves."""
    header = {"variant": spec.name, "family": spec.family, "architecture": asdict(spec.architecture)}
    with path.open("wb") as file:
        # Padded, so that the arrays are aligned in the file, as ONNX asks of external data.
        line = json.dumps(header).encode()
        file.write(line.ljust(-(-(len(line) + 1) // 64) * 64 - 1) + b"\n")
        write_leaves(file, build(spec.family, spec.architecture), values)


def open_model(path: Path) -> tuple[Model, dict[str, LazyTensor]]:
    """The skeleton of a model file and its tensors by name, read only when asked for.

    Raises `InputError` if the file is truncated or no model file.
    """
    with path.open("rb") as file:
        try:
            header = json.loads(file.readline(1 << 16))
            skeleton = build(header["family"], architecture_from_mapping(header["family"], header["architecture"]))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is no model.eqx written by vit2onnx.") from None
        return skeleton, _index(path, file, skeleton)


def load_model(path: str | Path) -> Model:
    """Load `model.eqx` as a callable Equinox model: `model(pixel_values)` with float32 [batch, 3, height, width]."""
    skeleton, tensors = open_model(Path(path))
    leaves = [jax.numpy.asarray(tensors[name].read()) for name in leaf_names(skeleton)]
    model: Model = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(skeleton), leaves)
    return model


def _index(path: Path, file: IO[bytes], skeleton: Any) -> dict[str, LazyTensor]:
    """Find where each leaf lies in an open `.eqx` file, from its current position on."""
    tensors = {}
    for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True):
        try:
            shape, dtype = _read_npy_header(file, name, leaf)
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); delete it and run again to rebuild it.") from error
        tensors[name] = LazyTensor.in_file(path, file.tell(), shape, dtype.name)
        file.seek(tensors[name].nbytes, io.SEEK_CUR)
    if file.tell() > path.stat().st_size:
        raise InputError(f"{path} is truncated; delete it and run again to rebuild it.")
    return tensors
