"""Check plain data against a JSON schema. PyYAML and jsonschema only, because the Snakefile imports this module."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
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
    validator = _validator(schema)
    errors = sorted(validator.iter_errors(mapping), key=lambda error: [str(key) for key in error.absolute_path])
    wheres = ((".".join(map(str, (*path, *error.absolute_path))) or "top level", error) for error in errors)
    return [f"{where}: {_message(error, validator.schema)}" for where, error in wheres]


@cache
def _validator(schema: Path) -> Any:
    # Cached, because every variant is checked against the same schema, which takes longer to read than to apply.
    return STRICT(yaml.safe_load(schema.read_text()))


def _message(error: ValidationError, schema: Any) -> str:
    instance, is_type = error.instance, error.validator == "type"
    message = shortened(error.message, 600)
    if error.validator == "additionalProperties" and isinstance(instance, Mapping):
        known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
        found = [close for key in instance if key not in known and (close := near(key, known))]
        return f"{message}; you may mean {', '.join(found)}" if found else message
    if meant := _meant(error, schema):
        return f"there is no such key; you may mean {meant}"
    examples = error.schema.get("examples") if isinstance(error.schema, Mapping) else None
    # YAML takes 1e-3, a number in other languages, for a text.
    if is_type and isinstance(instance, str) and re.fullmatch(r"-?\d+e-?\d+", instance):
        return f"{message}; write {instance.replace('e', '.0e')}"
    if is_type and error.validator_value == "array" and type(instance) in (str, int, float):
        return f"{message}; give a list, [{shortened(str(instance), 60)}]"
    if examples and error.validator in ("type", "pattern"):
        return f"{message}; write for example {' or '.join(map(str, examples))}"
    return message


def _meant(error: ValidationError, schema: Any) -> str | None:
    """The key of a mapping that a wrong one, which was taken for an entry of any name, is close to."""
    names: list[str] = []
    for step in error.absolute_schema_path:
        # What follows a reference stands elsewhere, and is about the same value.
        if step not in schema:
            break
        if step in ("properties", "items"):
            names = []
        elif step == "additionalProperties":
            names = [str(name) for name in schema.get("properties", {})]
        schema = schema[step]
    return near(str(error.absolute_path[-1]), names) if names else None


def near(name: str, names: Iterable[str]) -> str | None:
    """The name that is most like another one; `None` if none is close."""
    return next(iter(get_close_matches(name, list(names), n=1, cutoff=0.75)), None)
