"""All layers of the config as one. Standard library and PyYAML only, because the Snakefile imports this module."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vit2onnx.spec.variant import read_yaml

# The files of `config/` that hold the defaults.
DEFAULTS = ("config.yaml", "limits.yaml")
# Mappings whose entries a later layer can remove with `null`.
ENTRIES = (("exports",), ("images",), ("official", "checkpoints"), ("reference", "repositories"))


def settings_of(config: Mapping[str, Any], root: Path, command_line: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the project at `root`, with the user's config over them, and without entries that are `null`.

    `config` is all that Snakemake has read, and `command_line` the part of it that was given by `--config`. Snakemake
    takes nested values of that for texts; here they get the type that they would have in a YAML file.
    """
    found: dict[str, Any] = {}
    for path in (root / "config" / name for name in DEFAULTS):
        if path.is_file():
            found = _laid_over(found, read_yaml(path, f"config/{path.name}"))
    found = _laid_over(found, _typed(config, command_line))
    for entry in ENTRIES:
        found = _without_null(found, entry)
    return found


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
    if not isinstance(value, str):
        return value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return read if isinstance(read, int | float | None) else value
