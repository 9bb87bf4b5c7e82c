"""A published checkpoint of any layout becomes the Equinox archive, with an account of every tensor."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vit2onnx.checkpoints.detect import fitted
from vit2onnx.checkpoints.reading import open_variant
from vit2onnx.files import atomic
from vit2onnx.spec.family import optional
from vit2onnx.spec.variant import VariantSpec
from vit2onnx.weights.archive import archive_skeleton, write_archive
from vit2onnx.weights.keytable import raise_faults, value_of


@dataclass(frozen=True)
class LedgerRow:
    """What became of one tensor: a source without target was ignored, a target without source was restored."""

    source: str
    target: str
    transform: str
    shape: str
    dtype: str
    sha256: str
    target_sha256: str


def convert_checkpoint(spec: VariantSpec, checkpoint: Path, archive: Path, ledger: Path) -> str:
    """Convert a checkpoint and return its layout, reading one tensor at a time.

    Raises `InputError` with every missing, unknown or misshapen tensor and every tensor whose values are not finite
    or of no use; then neither file is written.
    """
    opened = open_variant(spec, checkpoint)
    fit, tensors, skeleton = fitted(spec, opened), opened.tensors, archive_skeleton(spec)
    unusable = optional(spec.family, "layouts", "unusable", lambda target, value: "")
    rows: list[LedgerRow] = []
    faults: list[str] = []

    def row(source: str, target: str, transform: str, array: np.ndarray, digest: str, target_digest: str) -> LedgerRow:
        if not np.isfinite(array.astype(np.float32, copy=False)).all():
            faults.append(f"tensor {source} holds values that are not finite")
        shape = "x".join(map(str, array.shape))
        return LedgerRow(opened.name(source), target, transform, shape, array.dtype.name, digest, target_digest)

    def values() -> Iterator[tuple[str, np.ndarray]]:
        for assignment in fit.assignments:
            sources = [tensors[key].read() for key in assignment.sources]
            value = value_of(assignment, sources)
            if why := unusable(assignment.target, value):
                faults.append(f"tensor {', '.join(assignment.sources)} {why}")
            digests = [sha256(array) for array in sources]
            # A value that is its source in another shape has the same bytes.
            same = len(sources) == 1 and np.shares_memory(value, sources[0])
            target_digest = digests[0] if same else sha256(value)
            for key, array, digest in zip(
                assignment.sources or [""], sources or [value], digests or [target_digest], strict=True
            ):
                rows.append(row(key, assignment.target, assignment.transform.name, array, digest, target_digest))
            yield assignment.target, value

    with atomic(archive) as new_archive, atomic(ledger) as new_ledger:
        write_archive(new_archive, spec, skeleton, values())
        for key, entry in fit.ignored.items():
            value = tensors[key].read()
            rows.append(row(key, "", f"ignored: {entry.reason}", value, sha256(value), ""))
            if entry.counts and not np.array_equal(value.reshape(-1), np.arange(value.size)):
                faults.append(f"tensor {key} must count from zero, because other positions are not supported")
            if entry.same_as and not np.array_equal(value, tensors[entry.same_as].read()):
                faults.append(f"tensor {key} is not the same as {entry.same_as}")
        raise_faults(str(checkpoint), faults)
        for key, (pattern, tensor) in opened.left_out.items():
            reason = f'ignored: the user\'s ignore "{pattern}"' if pattern else "ignored: not of the chosen tower"
            rows.append(LedgerRow(key, "", reason, "x".join(map(str, tensor.shape)), tensor.dtype, "", ""))
        with new_ledger.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(LedgerRow.__annotations__))
            writer.writeheader()
            writer.writerows(map(asdict, rows))
    return fit.table.layout


def sha256(array: np.ndarray) -> str:
    """The SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
