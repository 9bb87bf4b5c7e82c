"""Identify a checkpoint file among the released models."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vit2onnx.checkpoints.detect import detect, fitted
from vit2onnx.checkpoints.heads import files_of
from vit2onnx.checkpoints.names import names_of
from vit2onnx.checkpoints.own import in_words
from vit2onnx.checkpoints.reading import Opened, checksum, open_variant
from vit2onnx.errors import InputError
from vit2onnx.spec.variant import VARIANT_FILES, Own, VariantSpec, read_variants


def describe(
    spec: VariantSpec, path: Path, *, origin: dict[str, Any], weights: str, sha256: str | None = None
) -> dict[str, Any]:
    """What a checkpoint is: origin, layout, size, hash (unless given), and the official file that it equals.

    `weights` says whose they are: `synthetic`, `official` or `own`. Raises `InputError` if the file is something else.
    """
    opened = open_variant(spec, path)
    sha256 = sha256 or checksum(path)
    if weights == "official":
        check_identity(spec, opened, sha256)
    layout = (fitted(spec, opened).table if spec.own else detect(str(path), spec, opened.tensors)).layout
    # A variant's own release, of whose file there may be a copy under another name; of own weights any.
    known = release_of(sha256) if weights == "own" else spec if weights == "official" else None
    is_release = known.release if known and known.release.is_file(sha256) else None
    identities = {
        "synthetic": "synthetic weights, made here",
        "official": _unconfirmed(spec, path) if weights == "official" else "",
        "own": f"the user's own weights, like {spec.own.nearest}" if spec.own else "the user's own weights",
    }
    return {
        "variant": spec.name,
        "weights": weights,
        "origin": origin,
        "layout": layout,
        "tensors": len(opened.tensors) + len(opened.left_out),
        "bytes": sum(file.stat().st_size for file in files_of(path)),
        "sha256": sha256,
        "official_file": is_release.file if is_release else None,
        "identity": f"the publisher's {is_release.file}" if is_release else identities[weights],
        **({"own": told_of(spec.own), "told": in_words(spec)} if spec.own else {}),
    }


def _unconfirmed(spec: VariantSpec, path: Path) -> str:
    """What an official file is that no hash confirms."""
    if spec.release.is_known:
        return "a file that is none of those whose hashes are known"
    named = f"named like the publisher's {spec.release.file}, " if path.resolve().name == spec.release.file else ""
    return f"a file {named}of a release of which no hash is known"


def told_of(own: Own) -> dict[str, Any]:
    """What was found out about a user's own checkpoint, without the path of this machine."""
    fields = {key: value for key, value in asdict(own).items() if key != "path"}
    # As JSON has them, with which they are compared.
    return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


def known_variants() -> dict[str, VariantSpec]:
    """The specs of all released variants that the project has a file of."""
    if not VARIANT_FILES.is_dir():
        raise FileNotFoundError(f"{VARIANT_FILES}, against which a checkpoint is identified")
    found = (VariantSpec.from_mapping(name, mapping) for name, mapping in read_variants(VARIANT_FILES).items())
    return {spec.name: spec for spec in found if spec.released}


def release_of(sha256: str) -> VariantSpec | None:
    """The released variant whose publisher's file has this SHA-256, if there is one."""
    return next((spec for spec in known_variants().values() if spec.release.is_file(sha256)), None)


def check_identity(spec: VariantSpec, opened: Opened, sha256: str) -> None:
    """Raise `InputError` if a file is another variant's, by its hash, its tensors or the name that it came under."""
    path, others = opened.path, [other for other in known_variants().values() if other.name != spec.name]
    is_release = spec.release.is_file(sha256)
    for other in others:
        # Two variants may be of one release.
        if other.release.is_file(sha256) and not is_release:
            raise InputError(f"{path} is not {spec.name} but {other.name}: it is the publisher's {other.release.file}.")
    try:
        fitted(spec, opened)
    except InputError as error:
        raise InputError(f"{error} {closest(opened, others)}") from error
    if is_release:
        return
    # Two releases of one architecture differ in their values only, so only the file's name tells them apart.
    where = path.resolve().as_posix()
    for other in others:
        if _is_named(other, where) and not _is_named(spec, where) and _fits(other, opened):
            raise InputError(
                f"{path} calls itself {other.name}, not {spec.name}, and its tensors fit both; build that variant, or"
                " rename the file if its name is wrong."
            )


def closest(opened: Opened, others: list[VariantSpec]) -> str:
    """One sentence on which of other variants the tensors fit, if any."""
    for other in others:
        if _fits(other, opened):
            return f"It is a {other.name}, or another model of its shape; name that variant (VARIANT=, or the config)."
    return "It is none of the other variants either."


def _fits(spec: VariantSpec, opened: Opened) -> bool:
    """Whether a file is complete for a variant, in some layout."""
    try:
        fitted(spec, opened)
    except InputError:
        return False
    return True


def _is_named(spec: VariantSpec, text: str) -> bool:
    """Whether a text holds one of the names that its publisher, Hugging Face or timm gave to a variant."""
    timm = spec.release.timm
    names = [*names_of(spec), spec.release.huggingface.partition("/")[2]]
    names += [timm, timm.replace(".", "_qkvb.")] if timm else []
    return any(re.search(rf"(?<![\w.]){re.escape(name)}(?![a-z])", text) for name in names)
