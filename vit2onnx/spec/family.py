"""The register of families: each is a folder under `vit2onnx/families`, and its parts are imported when asked for.

So no environment imports what it lacks, and a new family needs no line outside its folder. The register stands in this
room, and imports no family by itself, because the rooms between this one and the families ask it too.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from vit2onnx.errors import InputError

FOLDER = Path(__file__).parents[1] / "families"

# Of every part, the names that the rest of the project asks for.
PARTS = {
    "architecture": ("Architecture", "LAYOUTS", "REPOSITORY", "KNOWN_DIFFERENCE", "MODELS"),
    "interface": ("INTERFACES",),
    "layouts": ("tables", "model_table", "archive_skeleton", "archive_config", "synthetic_value"),
    "model": ("Model",),
    "references": ("REFERENCES", "preparations", "published_constants"),
    "faults": ("FAULTS", "AMPLIFIED", "PREPROCESSING", "shrink"),
}
SCHEMA = "architecture.schema.yaml"


def families() -> list[str]:
    """The names of all families."""
    return sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))


def has_part(family: str, name: str) -> bool:
    """Whether a family has a part of a name."""
    return (FOLDER / family / f"{name}.py").is_file()


@cache
def part(family: str, name: str) -> ModuleType:
    """A part of a family, one of `PARTS`. Raises `InputError` that names the family, or what is missing of the part."""
    if family not in families():
        raise InputError(f"There is no family {family!r} in vit2onnx/families, only {', '.join(families())}.")
    where = f"vit2onnx/families/{family}/{name}.py"
    if not has_part(family, name):
        raise InputError(f"The family {family} has no {name}: write {where}.")
    module = import_module(f"vit2onnx.families.{family}.{name}")
    if missing := [wanted for wanted in PARTS.get(name, ()) if not hasattr(module, wanted)]:
        raise InputError(f"The family {family} is not complete: {where} lacks {', '.join(missing)}.")
    return module


def self_test_models() -> dict[str, str]:
    """The models of the self-test of all families, by name, with the variant from which each is made."""
    return {model: variant for family in families() for model, variant in part(family, "architecture").MODELS.items()}
