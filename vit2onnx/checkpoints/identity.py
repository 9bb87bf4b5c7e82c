"""Identify a checkpoint file among the released models."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit2onnx.checkpoints.detect import detect
from vit2onnx.checkpoints.reading import open_checkpoint
from vit2onnx.errors import InputError
from vit2onnx.files import sha256_of
from vit2onnx.provenance import PACKAGE
from vit2onnx.spec.variant import VariantSpec, read_variants
from vit2onnx.weights.archive import archive_skeleton
from vit2onnx.weights.keytable import LazyTensor, assign, check
from vit2onnx.weights.leaves import array_shapes

VARIANTS = PACKAGE.parent / "config" / "variants"


def describe(
    spec: VariantSpec, path: Path, *, origin: dict[str, Any], official: bool, sha256: str | None = None
) -> dict[str, Any]:
    """What a checkpoint file is: origin, layout, size, hash (unless given), and which official file."""
    tensors = open_checkpoint(path)
    sha256 = sha256 or sha256_of(path)
    if official:
        check_identity(spec, path, tensors, sha256)
    layout = detect(str(path), spec, tensors).layout
    is_release = official and spec.release.is_file(sha256)
    return {
        "variant": spec.name,
        "weights": "official" if official else "synthetic",
        "origin": origin,
        "layout": layout,
        "tensors": len(tensors),
        "bytes": path.stat().st_size,
        "sha256": sha256,
        "official_file": spec.release.file if is_release else None,
        "identity": (
            f"the publisher's {spec.release.file}"
            if is_release
            else "a file that is none of those whose hashes are known"
            if official
            else "synthetic weights, made here"
        ),
    }


def known_variants() -> dict[str, VariantSpec]:
    """The specs of all variant files of the project."""
    if not VARIANTS.is_dir():
        raise FileNotFoundError(f"{VARIANTS}, against which a checkpoint is identified")
    return {name: VariantSpec.from_mapping(name, mapping) for name, mapping in read_variants(VARIANTS).items()}


def check_identity(spec: VariantSpec, path: Path, tensors: Mapping[str, LazyTensor], sha256: str) -> None:
    """Raise `InputError` if a file is another variant's, by its hash, its tensors or the name that it came under."""
    others = [other for other in known_variants().values() if other.name != spec.name]
    is_release = spec.release.is_file(sha256)
    for other in others:
        # Two variants may be of one release.
        if other.release.is_file(sha256) and not is_release:
            raise InputError(f"{path} is not {spec.name} but {other.name}: it is the publisher's {other.release.file}.")
    try:
        faults_of(spec, path, tensors)
    except InputError as error:
        raise InputError(f"{error} {closest(path, tensors, others)}") from error
    if is_release:
        return
    # Two releases of one architecture differ in their values only, of which the file's name is all that speaks.
    where = path.resolve().as_posix()
    for other in others:
        if _is_named(other, where) and not _is_named(spec, where) and _fits(other, path, tensors):
            raise InputError(
                f"{path} calls itself {other.name}, not {spec.name}, and its tensors fit both; build that variant, or"
                " rename the file if its name is wrong."
            )


def closest(path: Path, tensors: Mapping[str, LazyTensor], others: list[VariantSpec]) -> str:
    """One sentence on which of other variants the tensors fit, if any."""
    for other in others:
        if _fits(other, path, tensors):
            return f"It is a {other.name}, or another model of its shape; name that variant (VARIANT=, or the config)."
    return "It is none of the other variants either."


def _fits(spec: VariantSpec, path: Path, tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether a file is complete for a variant, in some layout."""
    try:
        faults_of(spec, path, tensors)
    except InputError:
        return False
    return True


def faults_of(spec: VariantSpec, path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Raise `InputError` if names, shapes or dtypes of the tensors are not the variant's in any layout."""
    table = detect(str(path), spec, tensors)
    assignments = assign(table, array_shapes(archive_skeleton(spec)))
    check(f"{path} is no complete {spec.name} in {table.layout} layout", table, assignments, tensors)


def _is_named(spec: VariantSpec, text: str) -> bool:
    """Whether a text holds one of the names that its publisher, Hugging Face or timm gave to a variant."""
    huggingface = spec.release.huggingface.partition("/")[2]
    with_bias = spec.release.timm.replace(".", "_qkvb.")
    names = (spec.name, huggingface, spec.release.timm, with_bias)
    return any(re.search(rf"(?<![\w.]){re.escape(name)}(?![a-z])", text) for name in names)
