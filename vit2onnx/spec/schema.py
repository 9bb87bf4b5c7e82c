"""Check plain data against a JSON schema. PyYAML and jsonschema only, because the Snakefile imports this module."""

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from vit2onnx.errors import shortened


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not re.fullmatch(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


# JSON Schema takes 224.0 for an integer, which JAX does not. jsonschema lets nan pass any maximum, and its patterns let
# a text end in a newline.
STRICT = extend(
    Draft202012Validator,
    validators={"pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) in (int, float) and abs(value) < math.inf,
        }
    ),
)


def faults_of(mapping: Mapping[str, Any], schema: Path, *path: str) -> list[str]:
    """What a schema refuses in data, one sentence per key. `path` is the place of the data in its file."""
    errors = sorted(
        _validator(schema).iter_errors(mapping), key=lambda error: [str(key) for key in error.absolute_path]
    )
    wheres = ((".".join(map(str, (*path, *error.absolute_path))) or "top level", error) for error in errors)
    return [f"{where}: {_message(error)}" for where, error in wheres]


@cache
def _validator(schema: Path) -> Any:
    # Cached, because every variant is checked against the same schema, which takes longer to read than to apply.
    return STRICT(yaml.safe_load(schema.read_text()))


def _message(error: ValidationError) -> str:
    # YAML takes 1e-3, a number in other languages, for a text.
    if error.validator == "type" and isinstance(error.instance, str) and re.fullmatch(r"-?\d+e-?\d+", error.instance):
        return f"{error.message}; write {error.instance.replace('e', '.0e')}"
    return shortened(error.message, 600)
