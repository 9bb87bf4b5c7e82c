"""Which graphs make up the package of a model for Hugging Face's tools. Standard library only: the Snakefile asks it.

Names are those that transformers.js looks for. https://huggingface.co/docs/transformers.js/guides/dtypes
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vit2onnx.errors import InputError
from vit2onnx.spec.family import has_part, part
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec

# By precision, what transformers.js calls it, and what it appends to the names of such files.
DTYPES = {"float32": ("fp32", ""), "float16": ("fp16", "_fp16"), "int8": ("q8", "_quantized")}
# The precisions by the order in which a device should take them. transformers.js itself asks for the first only: on
# WebAssembly, which it uses in browsers, and on all other devices.
ON_WASM = ("int8", "float32", "float16")
ELSEWHERE = ("float32", "float16", "int8")
# A graph that takes photographs as they are. A package may have one, and lacks nothing without it.
FURTHER = {"photographs": "photographs_model"}


class PackageFile(NamedTuple):
    """A graph in a package: `stem` is its name without precision and ending."""

    stem: str
    recipe: Recipe

    @property
    def name(self) -> str:
        return file_name(self.stem, self.recipe.precision)


def file_name(stem: str, precision: str) -> str:
    """As in `model_fp16.onnx`."""
    return f"{stem}{DTYPES[precision][1]}.onnx"


def names_of(spec: VariantSpec) -> dict[str, str]:
    """By interface, what its files are called in a package of a variant, without ending.

    Raises `InputError` if the family does not say how tools know its models.
    """
    if not has_part(spec.family, "package"):
        raise InputError(f"{spec.name} has no package, because there is no vit2onnx/families/{spec.family}/package.py.")
    names: dict[str, str] = part(spec.family, "package").FILES | FURTHER
    return {interface: name for interface, name in names.items() if interface in spec.interfaces}


def package_files(spec: VariantSpec, recipes: Iterable[Recipe]) -> list[PackageFile]:
    """The graphs of a variant's package, at most one per interface and precision.

    Of several recipes it is the one with the most free sizes, then one that gives no earlier layers, then the one in
    portable operators, which more runtimes open, then the first. Raises `InputError` if there is no recipe for any.
    """
    names, listed = names_of(spec), list(recipes)
    files = []
    for interface, stem in names.items():
        for precision in DTYPES:
            fitting = [
                one
                for one in listed
                # Tools give one image at a time.
                if (one.interface, one.precision) == (interface, precision) and one.batch in (None, 1)
            ]
            if fitting:
                files.append(PackageFile(stem, max(fitting, key=lambda one: _openness(spec, one))))
    if all(file.stem in FURTHER.values() for file in files):
        interface = next(iter(names))
        sizes = ", ".join(f"{axis}: dynamic" for axis in spec.interface(interface).minimum)
        raise InputError(
            f"No recipe of the config gives a graph for the package of {spec.name}; add one to exports, for example"
            f" {names[interface]}: {{interface: {interface}, {sizes}, opset: 23}}."
        )
    return files


def _openness(spec: VariantSpec, recipe: Recipe) -> tuple[int, bool, bool]:
    sizes = spec.interface(recipe.interface).of_recipe(recipe)
    return sum(size is None for size in sizes.values()), not recipe.outputs, recipe.operators == "portable"


def lacking(spec: VariantSpec, files: Iterable[PackageFile]) -> str:
    """What a complete package would have besides, and how to add it, in one sentence; empty if it is complete."""
    present = {file.name for file in files}
    missing = [
        f"{name} (interface: {interface}, precision: {precision})"
        for interface, stem in names_of(spec).items()
        for precision in DTYPES
        if interface not in FURTHER and (name := file_name(stem, precision)) not in present
    ]
    if not missing:
        return ""
    return f"The package of {spec.name} lacks {', '.join(missing)}; add such recipes to exports for a complete one."


def loading(files: Iterable[PackageFile]) -> dict[str, Any]:
    """What `config.json` must tell transformers.js so that it finds a file without being asked for a precision.

    Empty if its own defaults find one.
    """
    precisions: dict[str, list[str]] = {}
    for file in files:
        precisions.setdefault(file.stem, []).append(file.recipe.precision)
    elsewhere, on_wasm = (_first(precisions, order) for order in (ELSEWHERE, ON_WASM))
    told: dict[str, Any] = {}
    if set(elsewhere.values()) != {DTYPES[ELSEWHERE[0]][0]}:
        told["dtype"] = elsewhere
    if set(on_wasm.values()) != {DTYPES[ON_WASM[0]][0]} or "dtype" in told:
        told["device_config"] = {"wasm": {"dtype": on_wasm}}
    return told


def _first(precisions: Mapping[str, Iterable[str]], order: Iterable[str]) -> dict[str, str]:
    """By file, the first precision of an order that there is, as transformers.js calls it."""
    return {
        stem: next(DTYPES[precision][0] for precision in order if precision in present)
        for stem, present in precisions.items()
    }
