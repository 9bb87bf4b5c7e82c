"""Where an official checkpoint is: a file that the user has, an e-mailed link, or the Hugging Face hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from vit2onnx.checkpoints.backbone import file_of
from vit2onnx.checkpoints.heads import INDEX_SUFFIX, SUFFIXES
from vit2onnx.checkpoints.links import is_whole, links_in
from vit2onnx.checkpoints.names import (
    HUGGINGFACE_FILE,
    HUGGINGFACE_INDEX,
    is_complete,
    is_file,
    is_named_after,
    listed,
    without_query,
    without_signature,
)
from vit2onnx.checkpoints.near_misses import near_misses
from vit2onnx.errors import InputError
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec

# Where users put checkpoints and e-mailed links, in the working directory.
FOLDER, LINKS_FILE = Path("checkpoints"), Path("config/links.txt")
MOST_LINK_BYTES = 1 << 24


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is; `location` is a path, a link with its signature, or a Hugging Face repository.

    A link's signature is a credential, so show and record `shown` only, as `repr` and `str` do. `near_misses` says
    which files and links were found on the way and not taken.
    """

    kind: Literal["file", "link", "huggingface"]
    location: str
    near_misses: str = field(default="", compare=False)

    @property
    def shown(self) -> str:
        """The location without a signature."""
        return without_query(self.location) if self.kind == "link" else self.location

    def __repr__(self) -> str:
        return f"Source({self.kind!r}, {self.shown!r})"


def locate(
    spec: VariantSpec, *, configured: Path | None, folder: Path, links_file: Path, environ: Mapping[str, str]
) -> Source:
    """The first of a local file, an e-mailed link and the hub; see `find_local` and `find_link`."""
    if path := find_local(spec, configured=configured, folder=folder, environ=environ):
        return Source("file", str(path))
    link = find_link(spec, links_file=links_file, environ=environ)
    caches, hub = _caches(spec, environ)
    missed = near_misses(
        spec,
        folder=folder,
        caches=caches,
        snapshots=[
            *_snapshots(hub, spec.release.huggingface),
            *(_snapshots(hub, f"timm/{spec.release.timm.replace('.', '*.')}") if spec.release.timm else []),
        ],
        links=None if link else _links(links_file, environ),
        links_file=links_file,
    )
    return Source("link", link, missed) if link else Source("huggingface", spec.release.huggingface, missed)


def find_local(spec: VariantSpec, *, configured: Path | None, folder: Path, environ: Mapping[str, str]) -> Path | None:
    """The configured file, or else the variant's file in `folder` or in one of the usual caches.

    A configured directory must hold the file. Raises `InputError` if the configured path has no checkpoint.
    """
    if configured is not None:
        return _resolve_configured(spec, _expand(configured, _home(environ)))
    caches, hub = _caches(spec, environ)
    found = (
        *(_find_in(place, spec) for place in (folder, *caches)),
        *(_find_in(snapshot, spec, hub=True) for snapshot in _snapshots(hub, spec.release.huggingface)),
    )
    return next(filter(None, found), None)


def find_link(spec: VariantSpec, *, links_file: Path, environ: Mapping[str, str]) -> str | None:
    """The variant's link in `VIT2ONNX_LINKS`, or else in `links_file`: the last, if there are several.

    Either may hold a whole e-mail, as text, as HTML or as its source. A link that is cut off does not count.
    """
    for urls in _links(links_file, environ).values():
        links = [url for url in urls if is_named_after(spec, urlsplit(url).path) and is_whole(url)]
        if links:
            # The publisher may use one name for several variants.
            return ([url for url in links if spec.name in url] or links)[-1]
    return None


def hub_sha256(path: Path) -> str | None:
    """The SHA-256 that Hugging Face's cache states of a file in it, by the name of the blob that the file links to.

    The hub's library checks no hash when it downloads, so this is a claim. Git's own small files have none.
    """
    if not re.search(r"/models--[^/]+/snapshots/[^/]+/.", path.absolute().as_posix()) or not path.is_symlink():
        return None
    found = re.search(r"/blobs/([0-9a-f]{64})$", path.readlink().as_posix())
    return found[1] if found else None


def _links(links_file: Path, environ: Mapping[str, str]) -> dict[str, list[str]]:
    """The links in each text that may hold some, unless it is empty, by the text's name."""
    texts = {"VIT2ONNX_LINKS": environ.get("VIT2ONNX_LINKS", "").encode("utf-8", "replace")}
    if links_file.is_file():
        with links_file.open("rb") as file:
            texts[str(links_file)] = file.read(MOST_LINK_BYTES)
    return {name: links_in(text) for name, text in texts.items() if text.strip()}


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or Path.home())


def _caches(spec: VariantSpec, environ: Mapping[str, str]) -> tuple[list[Path], Path]:
    """The folders in which torch hub and Equimo keep weights, and the one of the Hugging Face hub."""
    home = _home(environ)
    cache = _expand(environ.get("XDG_CACHE_HOME") or home / ".cache", home)
    torch_hub = _expand(environ.get("TORCH_HOME") or cache / "torch", home) / "hub"
    huggingface = _expand(environ.get("HF_HOME") or cache / "huggingface", home)
    # By the name of the publisher's repository.
    code = part(spec.family, "architecture").REPOSITORY.rpartition("/")[2]
    of_code = [torch_hub / code / "weights", home / ".cache" / "equimo" / code] if code else []
    hub = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE") or huggingface / "hub"
    return [torch_hub / "checkpoints", *of_code], _expand(hub, home)


def _snapshots(hub: Path, repository: str) -> list[Path]:
    """The revisions of a repository, or of all that a pattern matches, in Hugging Face's cache."""
    return sorted(hub.glob(f"models--{repository.replace('/', '--')}/snapshots/*"))


def _find_in(folder: Path, spec: VariantSpec, *, hub: bool = False) -> Path | None:
    """The variant's file in a folder, the official one first; with `hub` also one that is named as on the hub."""
    found = [path for path in listed(folder) if is_named_after(spec, path.name) and is_file(path)]
    if not found and hub:
        found = [path for path in [folder / HUGGINGFACE_FILE] if is_file(path)]
        found = found or [path for path in [folder / HUGGINGFACE_INDEX] if is_complete(path)]
    return min(found, key=lambda path: (path.name != spec.release.file, path.name), default=None)


def _resolve_configured(spec: VariantSpec, path: Path) -> Path:
    shown = path.parent / without_signature(path.name)
    if not path.exists():
        raise InputError(
            f"The checkpoint configured for {spec.name} does not exist: {shown}; correct the path, or remove"
            f" it and put {spec.release.file} in checkpoints/."
        )
    found = _find_in(path, spec) or file_of(path) if path.is_dir() else path
    # A pipe or a device may never end.
    if not is_file(found) or not found.name.endswith((*SUFFIXES, INDEX_SUFFIX)):
        raise InputError(
            f"The path configured for {spec.name} holds no checkpoint: {shown}; name a file that ends in"
            f" {', '.join(SUFFIXES)} or {INDEX_SUFFIX}, or its directory."
        )
    return found


def _expand(path: str | Path, home: Path) -> Path:
    """Replace a leading `~`; not with `Path.expanduser`, because that reads the process's own environment."""
    parts = Path(path).parts
    return home.joinpath(*parts[1:]) if parts[:1] == ("~",) else Path(path)
