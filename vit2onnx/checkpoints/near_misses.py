"""Say which files and links were found but not taken, why, and how to have each taken.

Looks at names and sizes only. A link's signature is never shown, not even as a part of a file's name.
"""

import json
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vit2onnx.checkpoints.heads import SUFFIXES
from vit2onnx.checkpoints.links import is_whole
from vit2onnx.checkpoints.names import (
    HUGGINGFACE_FILE,
    HUGGINGFACE_INDEX,
    is_complete,
    listed,
    names_of,
    published_name,
    without_signature,
)
from vit2onnx.errors import first_few, printable
from vit2onnx.spec.variant import VARIANT_FILES, VariantSpec, read_variants

MOST_LINES, MOST_NAMES = 5, 1000
# How browsers and other programs call a file while it arrives.
ARRIVING = (".crdownload", ".part", ".partial", ".download", ".opdownload", ".incomplete", ".tmp", ".aria2")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".rar")
GATEWAYS = re.compile(r"mimecast|safelinks|urldefense|cudasvc|sophos|trendmicro|fireeye|secure-web|click|track|link\.")

# One find: its rank (the most telling first), its description, and the path if it is enough to name that.
Miss = tuple[int, str, Path | None]


def near_misses(
    spec: VariantSpec,
    *,
    folder: Path,
    caches: list[Path],
    snapshots: list[Path],
    links: dict[str, list[str]] | None,
    links_file: Path,
) -> str:
    """A few lines on finds in the user's folder, in caches and in texts with links; "" if there are none.

    Other programs use the caches too, so only names that hold the variant's count there. `links` are by the name of
    their text, or None if one of them is taken; if it is empty, files named nearly like `links_file` are listed.
    """
    nearly = [*links_file.parent.glob(f"{links_file.stem}*"), Path(links_file.name), Path(links_file.stem)]
    strays = [path for path in nearly if links == {} and path != links_file and path.is_file()]
    found = [miss for path in listed(folder)[:MOST_NAMES] if (miss := _in_folder(spec, path))]
    for cache in caches:
        found += [
            miss for path in listed(cache)[:MOST_NAMES] if _own(spec, path.name) and (miss := _in_folder(spec, path))
        ]
    for snapshot in snapshots[:MOST_NAMES]:
        found += _in_snapshot(snapshot)
    for text, urls in (links or {}).items():
        found += _in_links(spec, text, urls)
    for stray in strays:
        found.append(
            (1, f"{printable(str(stray))} (not read): mv {printable(shlex.quote(str(stray)))} {links_file}", None)
        )
    if not found:
        return ""
    found.sort(key=lambda miss: miss[0])
    lines = [f"  {description}" for _, description, _ in found[:MOST_LINES]]
    if len(found) > MOST_LINES:
        lines.append(f"  and {len(found) - MOST_LINES} more")
    if path := next((path for _, _, path in found[:MOST_LINES] if path), None):
        lines += [
            f"  If it is the publisher's file, write into the config: official: {{checkpoints: {{{spec.name}:"
            f" {json.dumps(str(path), ensure_ascii=False)}}}}}",
            f"  If you trained it yourself, run: make run CHECKPOINT={shlex.quote(str(path))}",
        ]
    return "\n".join(["Found and not taken:", *lines])


def _in_folder(spec: VariantSpec, path: Path) -> Miss | None:
    """Why an entry of a folder is not taken, if it looks like a checkpoint."""
    name = without_signature(path.name)
    secret = name != path.name
    lower, own, shown = name.lower(), _own(spec, name), printable(str(path.with_name(name))) + ("?…" if secret else "")
    if name.startswith(".") or path.with_name(f"{path.name}.from").exists() or lower.endswith(".part.from"):
        return None  # hidden, or the start of a download of ours, which goes on by itself
    if path.is_dir():
        inside = _weights_in(path)
        if inside:
            return 2, f"{printable(str(inside))} (in a folder, where no search is made)", inside
        return (3, f"{shown} (a folder without a checkpoint)", None) if own else None
    if path.is_symlink() and not path.exists():
        return 3, f"{shown} (a link to a file that is gone: delete it)", None
    weights = own or bool(re.search("|".join(map(re.escape, SUFFIXES)), lower))
    if not path.is_file() or not (weights or lower.endswith(ARCHIVES)):
        return None
    if path.name.lower().endswith(ARRIVING) or not path.stat().st_size:
        return 1, f"{shown} (a download that has not finished: wait for it, or delete it)", None
    if own or secret:
        target = path.with_name(name)
        if own:
            suffix = next((suffix for suffix in SUFFIXES if suffix in lower), Path(spec.release.file).suffix)
            target = path.with_name(f"{spec.name}{(own[1] or '').lower()}{suffix}")
        old = f"{shlex.quote(str(path.with_name(name)))}?*" if secret else shlex.quote(str(path))
        move = printable(f"mv {old} {shlex.quote(str(target))}")
        return 0 if own else 2, f"{shown} (not {'exactly ' if own else ''}the publisher's name): {move}", None
    if lower.endswith(ARCHIVES):
        return 3, f"{shown} (an archive: unpack it)", None
    for name, other in _names().items():
        if re.search(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z0-9_])", lower):
            return 4, f"{shown} (another variant): make run WEIGHTS=official VARIANT={other}", None
    return 2, f"{shown} (not the publisher's name)", path if str(path).isprintable() else None


def _in_snapshot(snapshot: Path) -> Iterator[Miss]:
    """Why a revision in Hugging Face's cache is not taken."""
    index, files = snapshot / HUGGINGFACE_INDEX, [path for path in listed(snapshot) if path.suffix in SUFFIXES]
    repository = snapshot.parents[1].name.removeprefix("models--").replace("--", "/")
    if (index.is_file() and is_complete(index)) or (index := snapshot / HUGGINGFACE_FILE).is_file():
        yield 2, f"{index} (a copy of {repository})", index
    elif (snapshot / HUGGINGFACE_INDEX).is_file():
        yield 1, f"{snapshot} (lacks files that its index names): hf download {repository}", None
    elif files:
        yield 2, f"{printable(str(files[0]))} (not {HUGGINGFACE_FILE})", files[0]


def _in_links(spec: VariantSpec, text: str, urls: list[str]) -> Iterator[Miss]:
    """Why the links of a text are not taken."""
    paths = [unquote(urlsplit(url).path) for url in urls]
    hosts = {host for url in urls if re.fullmatch(r"[a-z0-9.-]{4,60}", host := urlsplit(url).hostname or "")}
    gateways = sorted(filter(GATEWAYS.search, hosts))
    own = [url for url, path in zip(urls, paths, strict=True) if _own(spec, path.rpartition("/")[2])]
    linked = {other for name, other in _names().items() if any(f"/{name}" in path for path in paths)}
    others = sorted(linked - {spec.name})
    if not all(map(is_whole, own)):
        yield 0, f"{text}: the link of {spec.name} is cut off; copy all of it, up to its Key-Pair-Id", None
    elif others:
        yield 4, f"{text}: links of other variants only ({first_few(others)})", None
    elif gateways:
        hidden = f"links of {', '.join(gateways[:3])}, which hide the publisher's address"
        yield 1, f"{text}: {hidden}; open one in a browser and download the file, or copy the address there", None
    elif not own:
        yield 3, f"{text}: no link to a checkpoint", None


def _own(spec: VariantSpec, name: str) -> re.Match[str] | None:
    """Whether a name holds one of the variant's names, in upper or lower case; the group is the hash's digits."""
    names = "|".join(map(re.escape, names_of(spec)))
    return re.search(rf"(?i)(?<![a-z0-9])(?:{names})(-[0-9a-f]{{8}})?(?![a-z0-9_])", name)


def _weights_in(folder: Path) -> Path | None:
    """The checkpoint in a folder that a tool for the hub has written: its index, its only file, or the first."""
    inside = sorted(islice(folder.rglob("*"), MOST_NAMES), key=lambda path: (len(path.parts), path))
    files = [path for path in inside if path.suffix in SUFFIXES and path.is_file()]
    files.sort(key=lambda path: path.name != HUGGINGFACE_FILE)
    index = (files[0].parent if files else folder) / HUGGINGFACE_INDEX
    return index if index.is_file() else next(iter(files), None)


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """All variants of the project by the names of their files, as they and their publishers call them."""
    variants = read_variants(VARIANT_FILES)
    releases = {name: mapping["release"]["file"] for name, mapping in variants.items() if mapping.get("release")}
    names = {published_name(file): name for name, file in releases.items()} | {name: name for name in variants}
    return dict(sorted(names.items()))
