"""All layers of the config as one. Standard library and PyYAML only, because the Snakefile imports this module."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from vit2onnx.errors import InputError
from vit2onnx.spec.plain_data import check_plain, read_data

# The files of `config/` that hold the defaults.
DEFAULTS = ("config.yaml", "limits.yaml")
# Mappings whose entries a later layer can remove with `null`.
ENTRIES = (
    ("exports",),
    ("images",),
    ("own",),
    ("official", "checkpoints"),
    ("reference", "repositories"),
    ("dense", "references"),
    ("dense", "masks"),
)


def settings_of(
    config: Mapping[str, Any], root: Path, command_line: Mapping[str, Any], files: Iterable[Path] = ()
) -> dict[str, Any]:
    """The defaults of the project at `root`, with the user's config over them, and without entries that are `null`.

    `config` is all that Snakemake has read, from `files` and from `--config`; `command_line` is what the latter gave.
    Snakemake takes nested values of that for texts; here they get the type that they would have in a YAML file. Raises
    `InputError` if a file or the config is no plain data of a sane size, or if a `null` removes nothing.
    """
    defaults = [path for path in (root / "config" / name for name in DEFAULTS) if path.is_file()]
    layers = [read_data(path, f"config/{path.name}") for path in defaults]
    here = Path.cwd()
    given = [read_data(path, str(path.relative_to(here) if path.is_relative_to(here) else path)) for path in files]
    # Before the layers become one: what is given on the command line, or by another workflow, was in no file.
    check_plain(config, "config")
    found: dict[str, Any] = {}
    for layer in layers:
        found = _laid_over(found, layer)
    found = _laid_over(found, _typed(config, command_line))
    layers += given
    if faults := [fault for entry in ENTRIES for fault in _removes_nothing(found, entry, layers)]:
        raise InputError(f"config: {'; '.join(faults)}.")
    for entry in ENTRIES:
        found = _without_null(found, entry)
    return found


def _removes_nothing(config: Any, path: tuple[str, ...], layers: Iterable[Any]) -> Iterator[str]:
    """Entries of the mapping at `path` that are `null` and that no layer has."""
    known = {str(name) for layer in layers for name, value in _entries(layer, path).items() if value is not None}
    for name in (str(name) for name, value in _entries(config, path).items() if value is None):
        if name not in known:
            near = ", ".join(get_close_matches(name, known) or sorted(known) or ["nothing"])
            yield f"{'.'.join((*path, name))}: null removes nothing, because there is no {name!r}, only {near}"


def _entries(layer: Any, path: tuple[str, ...]) -> Mapping[str, Any]:
    """The mapping at `path`; an empty one if there is none."""
    for key in path:
        layer = layer.get(key) if isinstance(layer, Mapping) else None
    return layer if isinstance(layer, Mapping) else {}


def _laid_over(below: Any, above: Any) -> Any:
    """Two layers as one, in which mappings are merged and anything else is replaced."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _laid_over(below.get(key), value) for key, value in above.items()}}


def _without_null(config: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The config without those entries of the mapping at `path` that are `null`."""
    key, *rest = path
    inner = config.get(key)
    if not isinstance(inner, dict):
        return config
    kept = _without_null(inner, tuple(rest)) if rest else {name: it for name, it in inner.items() if it is not None}
    return {**config, key: kept}


def _typed(value: Any, command_line: Any) -> Any:
    """A value in which those parts that are from the command line have their types."""
    if isinstance(value, Mapping) and isinstance(command_line, Mapping):
        return {key: _typed(it, command_line[key]) if key in command_line else it for key, it in value.items()}
    return _read(value) if value == command_line else value


def _read(value: Any) -> Any:
    """A value with every text in it replaced by the number, boolean or null that YAML takes it for."""
    if isinstance(value, Mapping):
        return {key: _read(it) for key, it in value.items()}
    if isinstance(value, list):
        return [_read(it) for it in value]
    # No number is so long, and a text can make YAML of any size.
    if not isinstance(value, str) or len(value) > 40:
        return value
    try:
        read = yaml.safe_load(value)
    # Any exception, because what looks like a date or a tag may be none.
    except Exception:
        return value
    return read if isinstance(read, int | float | None) else value
