"""Put a variant's checkpoint in its place, verified, and say what it is."""

import re
import zipfile
from pathlib import Path
from typing import Any

from vit2onnx.checkpoints.download import link_file, obtain
from vit2onnx.checkpoints.heads import files_of
from vit2onnx.checkpoints.identity import describe
from vit2onnx.checkpoints.reading import checksum
from vit2onnx.checkpoints.sources import Source, hub_sha256
from vit2onnx.checkpoints.synthetic import write_synthetic
from vit2onnx.errors import InputError
from vit2onnx.spec.family import PUBLISHER, layout_of
from vit2onnx.spec.variant import VariantSpec


def fetch_synthetic(spec: VariantSpec, destination: Path, *, seed: int, layout: str) -> dict[str, Any]:
    """Write synthetic weights to `destination` and describe them."""
    write_synthetic(spec, destination, seed=seed, layout=layout)
    return describe(spec, destination, origin={"kind": "synthetic", "seed": seed}, weights="synthetic")


def fetch_own(spec: VariantSpec, destination: Path) -> dict[str, Any]:
    """Make `destination` a link to the user's own checkpoint, and describe it.

    Raises `InputError` if it is damaged, or if a tensor is missing or left over.
    """
    if spec.own is None:
        raise InputError(f"{spec.name} is not under own in the config.")
    path = Path(spec.own.path)
    record = describe(spec, path, origin={"kind": "own file", "name": path.name}, weights="own")
    for file in files_of(path):
        check_records(file)
    link_file(path, destination)
    return record


def fetch_official(
    spec: VariantSpec, source: Source, destination: Path, *, folder: Path, check_hash: bool
) -> dict[str, Any]:
    """Make `destination` a link to the checkpoint at `source`, downloading it if need be, and describe it.

    A download from an e-mailed link is kept in `folder`, outside of the results, because the link works for a few days
    only. Raises `InputError` if the file is not what its name says, or no checkpoint at all.
    """
    path = obtain(spec, source, folder=folder)
    sha256 = checksum(path)
    if check_hash:
        check_sha256_prefix(path, sha256)
    record = describe(
        spec,
        path,
        sha256=sha256,
        origin={"kind": source.kind, "name": path.name if source.kind == "file" else source.shown},
        weights="official",
    )
    if check_hash and record["official_file"] is None:
        for file in files_of(path):
            check_records(file)
        is_publishers = record["layout"] == layout_of(spec.family, PUBLISHER) and spec.release.is_known
        if source.kind != "huggingface" and not is_publishers:
            check_origin(spec, path, sha256)
    link_file(path, destination)
    return record


def check_origin(spec: VariantSpec, path: Path, sha256: str) -> None:
    """Raise `InputError` for a file that does not lie in the hub's cache of the release's repositories.

    It may be somebody's own model, with another precision of RoPE periods or another way to resize positions than the
    release. Files in the publisher's layout hold the periods, and go with the publisher's code. Where no hash of the
    publisher's file is known, its name must do.
    """
    repositories = spec.release.repositories
    where = path.absolute().as_posix()
    if not spec.release.is_known and path.name == spec.release.file:
        return
    known = any(f"/models--{repository.replace('/', '--')}/snapshots/" in where for repository in repositories)
    # Small files in Git itself, such as the index of shards, have no SHA-256 there.
    if not known or hub_sha256(path) not in (None, sha256):
        raise InputError(
            f"{path} is none of the publisher's files whose hashes are known, and not from its repository on the hub."
            f" If it is your own model, run make run CHECKPOINT={path} (or set weights: own), which takes nothing of"
            " the release for granted; if you know it to be the publisher's, set official.check_hash to false."
        )


def check_sha256_prefix(path: Path, found: str) -> None:
    """Compare a file's SHA-256 with the eight digits at the end of its name, if it has them.

    By the convention of torch.hub, on which the publisher's own code relies, they begin the file's SHA-256.
    """
    promised = re.search(r"-([0-9a-f]{8})$", path.stem)
    if promised and not found.startswith(promised[1]):
        raise InputError(
            f"{path} has SHA-256 {found[:8]}… and not {promised[1]}… as its name says: it is incomplete or another"
            " file; delete it and download it again (or set official.check_hash to false to use it all the same)."
        )


def check_records(path: Path) -> None:
    """Compare a file of torch with the checksums in it, which torch itself does not do."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken:
            raise InputError(f"{path} is damaged: the checksum of {broken} in it is wrong; download or copy it again.")
