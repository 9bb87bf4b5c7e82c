"""The two files that hold weights on their way: the Equinox archive and the `.eqx` model file.

The archive, `.tar.lz4`, is Equimo's format: `metadata.json` with the arguments of its `VisionTransformer`, and
`weights.eqx` with all leaves of that class in tree order. The model file starts with one line of JSON that says what
it holds, then come the leaves of our model. Both are written leaf by leaf and contain nothing but what follows from
the weights, so the same weights give the same bytes.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import equinox as eqx
import jax
import lz4.frame
import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.keytable import LazyTensor, Shape
from vit2onnx.models import Model, build
from vit2onnx.variants import VariantSpec, ViTArchitecture, architecture_from_mapping

CHUNK = 1 << 20


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


def archive_skeleton(spec: VariantSpec) -> Any:
    """The tree of a variant's archive with a shape in place of every array: Equimo's, or our own model's."""
    if not isinstance(spec.architecture, ViTArchitecture):
        return build(spec.family, spec.architecture)
    from equimo.models import VisionTransformer

    config, key = equimo_config(spec.architecture), jax.random.PRNGKey(0)
    return eqx.filter_eval_shape(lambda: VisionTransformer(**config, key=key))


def npy_size(shape: Shape) -> int:
    """Bytes that a float32 array takes as `.npy`, its header included."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return len(header.getvalue()) + 4 * int(np.prod(shape))


def serialise(skeleton: Any, values: Iterable[tuple[str, np.ndarray]]) -> Iterator[bytes | memoryview]:
    """The bytes of an `.eqx` file, piece by piece, as `equinox.tree_serialise_leaves` writes them.

    `values` gives the array leaves in the skeleton's order; numbers among its leaves are taken from itself.
    """
    arrays = iter(values)
    for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True):
        piece = io.BytesIO()
        if hasattr(leaf, "shape"):
            found, value = next(arrays)
            assert (found, value.shape, value.dtype) == (name, leaf.shape, leaf.dtype), (found, name)
            np.lib.format.write_array_header_1_0(piece, np.lib.format.header_data_from_array_1_0(value))
            yield piece.getvalue()
            yield value.reshape(-1).data
        else:
            eqx.default_serialise_filter_spec(piece, leaf)
            yield piece.getvalue()


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


def write_archive(path: Path, spec: VariantSpec, skeleton: Any, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the archive of a variant, holding one leaf in memory at a time."""
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
    size = sum(map(npy_size, array_shapes(skeleton).values()))
    numbers = (leaf for leaf in jax.tree_util.tree_leaves(skeleton) if not hasattr(leaf, "shape"))
    for number in numbers:
        piece = io.BytesIO()
        eqx.default_serialise_filter_spec(piece, number)
        size += len(piece.getvalue())
    weights = io.BufferedReader(_Pieces(serialise(skeleton, values)), CHUNK)
    with (
        lz4.frame.open(path, "wb", content_checksum=True) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", bufsize=CHUNK) as tar,
    ):
        for name, length, content in (
            ("metadata.json", len(text), io.BytesIO(text)),
            ("weights.eqx", size, weights),
        ):
            # A TarInfo of its own carries no time, user or mode of this machine.
            info = tarfile.TarInfo(name)
            info.size = length
            tar.addfile(info, content)


@contextmanager
def open_archive(path: Path, spec: VariantSpec) -> Iterator[dict[str, LazyTensor]]:
    """The tensors of an archive by Equimo's names, readable in any order while the context is open.

    Raises `InputError` if the archive is damaged or holds another variant.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".archive-") as folder:
        try:
            with (
                lz4.frame.open(path, "rb") as compressed,
                tarfile.open(fileobj=compressed, mode="r|", bufsize=CHUNK) as tar,
            ):
                tar.extractall(folder, filter="data")
                if tar.getnames() != ["metadata.json", "weights.eqx"]:
                    raise tarfile.TarError(f"it holds {tar.getnames()}")
                while compressed.read(CHUNK):  # to the end, where the checksum is
                    pass
            config = json.loads((Path(folder) / "metadata.json").read_text())["model_config"]
        # Not OSError, because a full disk is no fault of the archive.
        except (RuntimeError, EOFError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged; delete it and run again to rebuild it.") from error
        if config != json.loads(json.dumps(archive_config(spec))):
            raise InputError(
                f"{path} holds another architecture than {spec.name}; delete it and run again to rebuild it."
            )
        with (Path(folder) / "weights.eqx").open("rb") as file:
            yield _index(path, file, archive_skeleton(spec))


def write_model(path: Path, spec: VariantSpec, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write the inference model of a variant: a line of JSON, then the leaves."""
    skeleton = build(spec.family, spec.architecture)
    header = {"variant": spec.name, "family": spec.family, "architecture": asdict(spec.architecture)}
    with path.open("wb") as file:
        # Padded, so that the arrays are aligned in the file, as ONNX asks of external data.
        line = json.dumps(header).encode()
        file.write(line.ljust(-(-(len(line) + 1) // 64) * 64 - 1) + b"\n")
        for piece in serialise(skeleton, values):
            file.write(piece)


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


def _index(source: Path, file: IO[bytes], skeleton: Any) -> dict[str, LazyTensor]:
    """Find where each leaf lies in an open `.eqx` file, from its current position on; faults name `source`."""
    path, tensors = Path(file.name), {}
    for name, leaf in zip(leaf_names(skeleton), jax.tree_util.tree_leaves(skeleton), strict=True):
        try:
            assert np.lib.format.read_magic(file) == (1, 0)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            assert shape == tuple(getattr(leaf, "shape", ())) and not fortran
            assert dtype == getattr(leaf, "dtype", dtype)
        except (ValueError, AssertionError) as error:
            raise InputError(f"{source} is damaged at leaf {name}; delete it and run again to rebuild it.") from error
        if hasattr(leaf, "shape"):
            tensors[name] = LazyTensor.in_file(path, file.tell(), shape, dtype.name)
        file.seek(dtype.itemsize * int(np.prod(shape)), io.SEEK_CUR)
    if file.tell() > path.stat().st_size:
        raise InputError(f"{source} is truncated; delete it and run again to rebuild it.")
    return tensors
