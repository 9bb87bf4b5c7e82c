"""Check the configuration before any job runs, so that a typo costs a second and is named."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from vit2onnx.errors import InputError
from vit2onnx.spec.case import GOLDEN, image_files
from vit2onnx.spec.family import PARTS, missing_of, part, self_test_models
from vit2onnx.spec.recipe import Recipe
from vit2onnx.spec.variant import VariantSpec, read_variants, read_yaml

# JSON Schema takes 224.0 for an integer, JAX does not; and nan for a number that is no larger than any maximum.
STRICT = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) in (int, float) and abs(value) < math.inf,
        }
    ),
)


def check_configuration(config: Mapping[str, Any], root: Path) -> dict[str, dict[str, Any]]:
    """Check the config and the variant files of the project at `root`, and return what the latter hold, by name.

    Raises `InputError` that names every wrong key of the first file that has one.
    """
    schemas = root / "workflow" / "schemas"
    folder = root / "config" / "variants"
    if (path := Path("config", "config.yaml")).is_file():
        # Only for keys that are there twice, of which Snakemake has kept the last.
        read_yaml(path, str(path))
    _check("config", config, schemas / "config.schema.yaml")
    variants = read_variants(folder)
    for name, mapping in variants.items():
        _check(f"config/variants/{name}.yaml", mapping, schemas / "variant.schema.yaml")
    names = names_of(config, variants)
    faults = [
        f"variants names {name!r}, but there is no config/variants/{name}.yaml (there are: {', '.join(variants)})"
        for name in (*names, *config["official"]["checkpoints"])
        if name not in variants
    ]
    asked = dict.fromkeys(variants[name]["family"] for name in names if name in variants)
    missing = [(family, missing_of(family, part)) for family in asked for part in PARTS]
    faults += [f"the family {family} is not complete: {what}" for family, what in missing if what]
    if not faults:
        specs = [VariantSpec.from_mapping(name, variants[name]) for name in names]
        patch = max(spec.interface().least["height"] for spec in specs)
        faults = [*_size_faults(config, patch), *_limit_faults(config["parity"]["limits"])]
        layout = config["synthetic"]["layout"]
        faults += [
            f"synthetic.layout: there is no {layout} layout of {spec.name}, only {', '.join(layouts)}"
            for spec in specs
            if config["weights"] == "synthetic" and layout not in (layouts := part(spec.family, "architecture").LAYOUTS)
        ]
        images, wrong = image_files(config["images"])
        faults += wrong
        golden = config["official"]["golden_image"]
        if golden and not Path(golden).expanduser().is_file():
            faults.append(f"official.golden_image: there is no file {golden}")
        if GOLDEN.image in images:
            faults.append(f"images.{GOLDEN.image}: this name is taken by official.golden_image; choose another")
        faults += [
            f"config/variants/{spec.name}.yaml: licence.text: there is no file {spec.licence.text}"
            for spec in specs
            if not (root / spec.licence.text).is_file()
        ]
        if config["parity"]["self_test"]:
            faults += [
                f"parity.self_test: it needs config/variants/{name}.yaml, which is not there"
                for name in self_test_models().values()
                if name not in variants
            ]
        repository = config["reference"]["repository"]
        if repository and not Path(repository).expanduser().is_dir():
            faults.append(f"reference.repository: there is no folder {repository}")
        faults += [
            f"official.checkpoints.{name}: there is no file or folder {path}"
            for name, path in config["official"]["checkpoints"].items()
            if config["weights"] == "official" and name in names and not Path(path).expanduser().exists()
        ]
        results = Path("results").resolve()
        faults += [
            f"official.checkpoints.{name}: {path} lies in results/, whose files are made anew; keep it in checkpoints/"
            for name, path in config["official"]["checkpoints"].items()
            if results in Path(path).expanduser().absolute().parents
        ]
    _raise("config", faults)
    return variants


def names_of(config: Mapping[str, Any], variants: Mapping[str, Any]) -> list[str]:
    """The variants that the config asks for: a list of names, one name, or "all" that have a file."""
    named = config["variants"]
    return list(variants) if named == "all" else [named] if isinstance(named, str) else named


def _check(file: str, mapping: Mapping[str, Any], schema: Path) -> None:
    validator = STRICT(yaml.safe_load(schema.read_text()))
    errors = sorted(validator.iter_errors(mapping), key=lambda error: [str(key) for key in error.absolute_path])
    _raise(file, [f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {_message(error)}" for error in errors])


def _message(error: ValidationError) -> str:
    # YAML takes what other languages write as a number for a text.
    if error.validator == "type" and isinstance(error.instance, str) and re.fullmatch(r"-?\d+e-?\d+", error.instance):
        return f"{error.message}; write {error.instance.replace('e', '.0e')}"
    return str(error.message)


def _size_faults(config: Mapping[str, Any], patch: int) -> list[str]:
    sizes = [tuple(size) for size in config["parity"]["sizes"]]
    faults = [
        f"parity.sizes: {height}x{width} is smaller than one patch of {patch}x{patch} pixels"
        for height, width in sizes
        if min(height, width) < patch
    ]
    for name, recipe in config["exports"].items():
        export = Recipe.from_mapping(name, recipe)
        small = [key for key in ("height", "width") if (export.sizes[key] or patch) < patch]
        faults += [f"exports.{name}.{key}: {recipe[key]} is smaller than one patch of {patch} pixels" for key in small]
        if not any(export.accepts({"height": size[0], "width": size[1]}) for size in sizes) and None in (
            export.sizes["height"],
            export.sizes["width"],
        ):
            faults.append(f"exports.{name}: no size of parity.sizes fits it, so that it could not be compared")
    return faults


def _limit_faults(limits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cosine = limits["cosine"]["limit"]
    return [f"parity.limits.cosine.limit: {cosine} is more than any cosine"] if cosine > 1 else []


def _raise(file: str, faults: list[str]) -> None:
    if faults:
        raise InputError(f"{file}: {'; '.join(faults)}.")
