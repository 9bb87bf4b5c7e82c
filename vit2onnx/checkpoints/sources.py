"""Where an official checkpoint is: a file that the user has, an e-mailed link, or the Hugging Face hub.

Nothing heavy is imported here, because the Snakefile imports this module.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from vit2onnx.errors import InputError
from vit2onnx.spec.family import part
from vit2onnx.spec.variant import VariantSpec

SUFFIXES = (".pth", ".pt", ".safetensors")
HUGGINGFACE_FILE = "model.safetensors"
# Where users put checkpoints and e-mailed links, in the working directory.
FOLDER, LINKS_FILE = Path("checkpoints"), Path("config/links.txt")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is; `location` is a path, a link with its signature, or a Hugging Face repository.

    A link's signature is a credential: show and record `shown`, as `repr` and `str` do.
    """

    kind: Literal["file", "link", "huggingface"]
    location: str

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
    if link := find_link(spec, links_file=links_file, environ=environ):
        return Source("link", link)
    return Source("huggingface", spec.release.huggingface)


def find_local(spec: VariantSpec, *, configured: Path | None, folder: Path, environ: Mapping[str, str]) -> Path | None:
    """The configured file, or else the variant's file in `folder` or in one of the usual caches.

    A configured directory must hold the file. Raises `InputError` if the configured path has no checkpoint.
    """
    home = Path(environ.get("HOME") or Path.home())
    if configured is not None:
        return _resolve_configured(spec, _expand(configured, home))
    cache = _expand(environ.get("XDG_CACHE_HOME") or home / ".cache", home)
    torch_hub = _expand(environ.get("TORCH_HOME") or cache / "torch", home) / "hub"
    huggingface = _expand(environ.get("HF_HOME") or cache / "huggingface", home)
    huggingface_hub = _expand(environ.get("HF_HUB_CACHE") or huggingface / "hub", home)
    # Torch hub and Equimo keep weights by the name of the publisher's repository.
    code = part(spec.family, "architecture").REPOSITORY.rpartition("/")[2]
    snapshots = huggingface_hub / f"models--{spec.release.huggingface.replace('/', '--')}" / "snapshots"
    found = (
        _find_in(folder, spec),
        _find_in(torch_hub / "checkpoints", spec),
        _find_in(torch_hub / code / "weights", spec),
        _find_in(home / ".cache" / "equimo" / code, spec),
        *(_find_in(snapshot, spec, other=HUGGINGFACE_FILE) for snapshot in _list(snapshots)),
    )
    return next(filter(None, found), None)


def find_link(spec: VariantSpec, *, links_file: Path, environ: Mapping[str, str]) -> str | None:
    """The variant's link in `VIT2ONNX_LINKS`, or else in `links_file`: the last, if there are several.

    Either may hold a whole e-mail, as plain text or as HTML.
    """
    texts = [environ.get("VIT2ONNX_LINKS", "")]
    if links_file.is_file():
        texts.append(links_file.read_text(encoding="utf-8", errors="replace"))
    for text in texts:
        # Not the whole text at once, because html.unescape also rewrites bare parameters such as "&copy=".
        plain = re.sub(r"&#?\w+;", lambda entity: html.unescape(entity[0]), text)
        urls: list[str] = re.findall(r"(?a:https?://[\w.~:/?#@!$&*+,;=%-]+)", plain)
        links = [url.rstrip(".,:;!?*") for url in urls if _is_named_after(spec, urlsplit(url).path)]
        if links:
            return links[-1]
    return None


def without_query(url: str) -> str:
    """Scheme, host and path of a link, which may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_named_after(spec: VariantSpec, path: str) -> bool:
    """Whether the file's stem is the variant's name, alone or with the eight digits of a hash."""
    file = PurePosixPath(unquote(path))
    return file.suffix in SUFFIXES and bool(re.fullmatch(f"{re.escape(spec.name)}(-[0-9a-f]{{8}})?", file.stem))


def _find_in(folder: Path, spec: VariantSpec, *, other: str | None = None) -> Path | None:
    """The variant's file in a folder, the official one first; a file named `other` counts as well."""
    found = [path for path in _list(folder) if path.name == other or _is_named_after(spec, path.name)]
    # Not empty files, because a browser reserves the final name with one while it downloads.
    found = [path for path in found if path.is_file() and path.stat().st_size > 0]
    return min(found, key=lambda path: (path.name != spec.release.file, path.name), default=None)


def _resolve_configured(spec: VariantSpec, path: Path) -> Path:
    if not path.exists():
        raise InputError(
            f"The checkpoint configured for {spec.name} does not exist: {path}; correct the path, or remove"
            f" it and put {spec.release.file} in checkpoints/."
        )
    found = _find_in(path, spec, other=HUGGINGFACE_FILE) if path.is_dir() else path
    if found is None or found.suffix not in SUFFIXES:
        raise InputError(
            f"The path configured for {spec.name} holds no checkpoint: {path}; name a file that ends in .pth,"
            f" .pt or .safetensors, or the directory of {spec.release.file} or {HUGGINGFACE_FILE}."
        )
    return found


def _expand(path: str | Path, home: Path) -> Path:
    """Replace a leading `~`; not with `Path.expanduser`, because that reads the process's own environment."""
    parts = Path(path).parts
    return home.joinpath(*parts[1:]) if parts[:1] == ("~",) else Path(path)


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # not there, or not ours to read
        return []
