"""The Equinox archive, `.tar.lz4`, in Equimo's format: `weights.eqx` with all leaves of a model's class in tree order,
and `metadata.json` with the arguments of that class.

It is written leaf by leaf and contains nothing but what follows from the weights and the versions of the tools, so the
same weights give the same bytes. The metadata comes last, because it holds the weights' hash.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import lz4.frame
import numpy as np

from vit2onnx.errors import InputError
from vit2onnx.files import check_regular
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.leaves import CHUNK, ahead, array_paths, eqx_size, leaf_size, read_leaves, serialise

# The most bytes of `metadata.json`, which has about one thousand.
LONGEST_METADATA = 1 << 16


def archive_config(spec: VariantSpec) -> dict[str, Any]:
    """What `metadata.json` says of the model: the arguments of the class whose tree the archive holds."""
    config: dict[str, Any] = part(spec.family, "layouts").archive_config(spec.architecture)
    return config


@cache
def archive_skeleton(spec: VariantSpec) -> Any:
    """The tree of a variant's archive with a shape in place of every array."""
    return part(spec.family, "layouts").archive_skeleton(spec.architecture)


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
    digest = hashlib.sha256()

    def hashed(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for piece in pieces:
            digest.update(piece)
            yield piece

    def pieces() -> Iterator[bytes | memoryview]:
        # Not through tarfile, because its buffers take longer than the compression.
        size = eqx_size(skeleton)
        yield _tar_header("weights.eqx", size)
        yield from hashed(serialise(skeleton, ahead(values, leaf_size)))
        yield _padding(size)
        text = json.dumps(metadata_of(spec, skeleton, digest.hexdigest()), indent=1).encode()
        yield _tar_header("metadata.json", len(text)) + text + _padding(len(text))
        yield bytes(2 * tarfile.BLOCKSIZE)

    with path.open("wb") as file:
        for chunk in ahead(compress(pieces()), len):
            file.write(chunk)


def metadata_of(spec: VariantSpec, skeleton: Any, weights_sha256: str) -> dict[str, Any]:
    """The metadata of a variant's archive: what Equimo 1 reads, and from `format` on what Equimo 2 compares."""
    kind = type(skeleton)
    return {
        "model_config": archive_config(spec),
        "torch_hub_cfg": {},
        "timm": [],
        "jax_version": version("jax"),
        "equinox_version": version("equinox"),
        "equimo_version": version("equimo"),
        "format": "equimo.model.checkpoint",
        "format_version": 1,
        "weights_sha256": weights_sha256,
        # Equimo 2 has its vision models in a room of their own.
        "model_class": f"{kind.__module__}.{kind.__qualname__}".replace("equimo.models.", "equimo.vision.models."),
        "model_signature": _signature(skeleton),
        "vit2onnx": {"variant": spec.name, "family": spec.family},
    }


def _signature(skeleton: Any) -> str:
    """The hash by which Equimo 2 tells that a class has the same arrays at the same places."""
    leaves = [{"path": path, "shape": shape} for path, shape in array_paths(skeleton)]
    text = json.dumps(leaves, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def read_archive(path: Path, spec: VariantSpec) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an archive with their names, in its own order, one in memory at a time.

    Raises `InputError` if the archive is damaged, which may show at its end only, or holds another variant. What it
    says of its sizes is compared with the variant before anything is read.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            stream = io.BufferedReader(_Pieces(_decompress(file)), CHUNK)
            skeleton = archive_skeleton(spec)
            size, wanted = _enter_member(stream, "weights.eqx"), eqx_size(skeleton)
            if size != wanted:
                raise InputError(
                    f"{path} is not of {spec.name} as it is now, because its weights have {size} bytes instead of"
                    f" {wanted}; delete it and run again to rebuild it."
                )
            yield from read_leaves(stream, skeleton)
            stream.read(len(_padding(size)))
            size = _enter_member(stream, "metadata.json")
            if not 0 <= size <= LONGEST_METADATA:
                raise ValueError(f"its metadata have {size} bytes")
            metadata = json.loads(stream.read(size))
            found = metadata["vit2onnx"]["variant"], metadata["model_config"]
            if found != (spec.name, json.loads(json.dumps(archive_config(spec)))):
                raise InputError(
                    f"{path} holds {found[0]} and not {spec.name} as it is now; delete it and run again to rebuild it."
                )
            # More than a tar ends with, so that the frame is read to its end, where its checksum is.
            end = stream.read(2 * tarfile.RECORDSIZE)
            if len(end) == 2 * tarfile.RECORDSIZE or end.strip(tarfile.NUL):
                raise ValueError("it holds more than metadata and weights")
    # Not OSError, because a full disk is no fault of the archive.
    except (RuntimeError, EOFError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run again to rebuild it.") from error


def _decompress(file: IO[bytes]) -> Iterator[bytes]:
    """The content of an lz4 frame, after which the file ends.

    Not through `lz4.frame.open`, because that takes 8 KiB at a time.
    """
    decompressor = lz4.frame.LZ4FrameDecompressor()
    # Not more at a time, because a byte may become 255.
    while chunk := file.read(CHUNK // 8):
        yield decompressor.decompress(chunk)
        if decompressor.unused_data:
            raise ValueError("something stands behind its end")
    if not decompressor.eof:
        raise EOFError("the lz4 frame is truncated")


def _enter_member(stream: IO[bytes], name: str) -> int:
    """Read a tar header up to the member's content and return its size. Raises `ValueError` for another member."""
    info = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "strict")
    if info.name != name:
        raise ValueError(f"it holds {info.name} instead of {name}")
    return info.size
