"""Trees of arrays as `.eqx` files hold them: all leaves in tree order, written and read one at a time."""

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, TypeVar

import equinox as eqx
import jax
import numpy as np

from vit2onnx.errors import InternalError
from vit2onnx.weights.keytable import Shape

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


def array_paths(tree: Any) -> list[tuple[str, Shape]]:
    """The path of every array leaf as JAX writes it, as in `.blocks[0].attn.qkv.weight`, with its shape."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), tuple(leaf.shape)) for path, leaf in leaves if hasattr(leaf, "shape")]


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


def read_leaves(file: IO[bytes], skeleton: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The array leaves of an `.eqx` file from its current position on. Raises `EOFError` or `ValueError`."""
    for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True):
        read_head(file, name, leaf)
        if not hasattr(leaf, "shape"):
            continue
        array = np.empty(leaf.shape, np.float32)
        rest = array.reshape(-1).data.cast("B")
        while rest:
            count = file.readinto(rest)  # type: ignore[attr-defined]
            if not count:
                raise EOFError(f"it ends within {name}")
            rest = rest[count:]
        yield name, array


def read_head(file: IO[bytes], name: str, leaf: Any) -> None:
    """Read what stands before the bytes of an array leaf, or all of a number among the leaves.

    Raises `ValueError` if it is not what is written for the leaf `name`. Nothing of it is believed or parsed.
    """
    head = npy_header(leaf.shape) if hasattr(leaf, "shape") else _number(leaf)
    if file.read(len(head)) != head:
        raise ValueError(f"leaf {name} is not as it was written")


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
