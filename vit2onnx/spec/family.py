"""The register of families: each is a folder under `vit2onnx/families`, and its parts are imported when asked for.

So no environment imports what it lacks, and a new family needs no line outside its folder. The register is in this room
because rooms below the families use it too.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from vit2onnx.errors import InputError, InternalError

FOLDER = Path(__file__).parents[1] / "families"

# Of every part, the names that the rest of the project asks for.
PARTS = {
    "architecture": ("Architecture", "LAYOUTS", "REPOSITORY", "KNOWN_DIFFERENCE", "MODELS"),
    "interface": ("INTERFACES",),
    "layouts": ("tables", "model_table", "archive_skeleton", "archive_config", "synthetic_value"),
    "model": ("Model",),
    "recognition": ("MARKS", "MODEL_TYPES", "recognise", "read_config", "assume"),
    "references": ("REFERENCES", "from_transformers", "preparations", "published_constants"),
    "faults": ("FAULTS", "AMPLIFIED", "PREPROCESSING", "shrink"),
}
# Parts that a family can do without: the packed form of a model in PyTorch, with the name that Hugging Face has for its
# type, and the files of a package for the hub.
OPTIONAL_PARTS = {"packing": ("MODEL_TYPE", "Packing"), "package": ("FILES", "config", "processor")}
# Names that a part may leave out. Whoever asks for one gives the value that stands for it.
OPTIONAL = {
    "recognition": ("TOWERS", "KEPT_PREFIXES", "OF_WHOLE", "assumes_texts", "processor_keys"),
    "layouts": ("unusable",),
    "references": ("whole_inputs", "compare_texts"),
}
SCHEMA = "architecture.schema.yaml"
# Stands for the layout in which a family's own publisher offers checkpoints.
PUBLISHER = "publisher"


def families() -> list[str]:
    """The names of all families."""
    return sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))


def has_part(family: str, name: str) -> bool:
    """Whether a family has a part."""
    return _file(family, name).is_file()


@cache
def part(family: str, name: str) -> ModuleType:
    """A part of a family, imported. Raises `InputError` if there is no such family, or the part is not complete."""
    _check(family)
    if missing := missing_of(family, name):
        raise InputError(_not_complete(family, missing))
    return import_module(f"vit2onnx.families.{family}.{name}")


def optional(family: str, name: str, attribute: str, default: Any) -> Any:
    """Something of a part that few families have, or the `default`."""
    if attribute not in OPTIONAL[name]:
        raise InternalError(f"{attribute} is not among the optional names of {name}")
    return getattr(part(family, name), attribute, default)


def missing_of(family: str, name: str) -> str:
    """What a part of a family lacks, in words; nothing if it is complete. The part is read and not imported."""
    where = f"vit2onnx/families/{family}/{name}.py"
    if not has_part(family, name):
        return f"there is no {where}"
    try:
        names = set(_names(_file(family, name)))
    except SyntaxError as error:
        return f"{where}, line {error.lineno}: {error.msg}"
    lacking = sorted({*PARTS.get(name, ()), *OPTIONAL_PARTS.get(name, ())} - names)
    return f"{where} lacks {', '.join(lacking)}" if lacking else ""


def incomplete(family: str) -> str:
    """All that a family lacks of its parts and its schema, as a sentence; nothing if it is complete."""
    names = [*PARTS, *(name for name in OPTIONAL_PARTS if has_part(family, name))]
    missing = [missing_of(family, name) for name in names]
    missing += [] if architecture_schema(family).is_file() else [f"there is no vit2onnx/families/{family}/{SCHEMA}"]
    return _not_complete(family, "; ".join(filter(None, missing))) if any(missing) else ""


def _not_complete(family: str, missing: str) -> str:
    return f"The family {family} is not complete: {missing}."


def _check(family: str) -> None:
    """Raise `InputError` if there is no such family."""
    if family not in families():
        raise InputError(f"There is no family {family!r} in vit2onnx/families, only {', '.join(families())}.")


def _file(family: str, name: str) -> Path:
    return FOLDER / family / f"{name}.py"


def _names(path: Path) -> Iterator[str]:
    """The names that a module defines or imports at its top."""
    for node in ast.parse(path.read_text(), str(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def architecture_schema(family: str) -> Path:
    """The JSON schema of the `architecture` block of a family's variants. Raises `InputError` if there is no family."""
    _check(family)
    return FOLDER / family / SCHEMA


def interfaces_of(family: str) -> list[str]:
    """The names of all interfaces of a family."""
    return list(part(family, "interface").INTERFACES)


def publisher_repository(family: str) -> str:
    """The name of the publisher's code of a family, such as `facebookresearch/dinov3`; empty if it is no reference."""
    repository: str = part(family, "architecture").REPOSITORY
    return repository


def layout_of(family: str, name: str) -> str:
    """The layout of a family that a name stands for: `publisher` is the first, any other name stands for itself."""
    return next(iter(part(family, "architecture").LAYOUTS)) if name == PUBLISHER else name


def self_test_models() -> dict[str, str]:
    """The models of the self-test of all families, by name, with the variant from which each is made.

    Raises `InputError` if a family is not complete.
    """
    for sentence in filter(None, map(incomplete, families())):
        raise InputError(sentence)
    return {model: variant for family in families() for model, variant in part(family, "architecture").MODELS.items()}
