"""Plain data of YAML and JSON, within bounds. Standard library and PyYAML only, because the Snakefile imports this."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vit2onnx.errors import OBEYED, InputError

# Far more than a config or a variant needs. Such a file is still read in a second or two.
MOST_BYTES, MOST_VALUES, DEEPEST, LONGEST_TEXT = 1 << 18, 20_000, 20, 4000
LARGEST_INTEGER = 2**63 - 1


def read_data(path: Path, name: str) -> Any:
    """Read a YAML file, or a JSON file if its suffix is `.json`. Messages call it `name`.

    Raises `InputError` if it is neither, is too large, has a key twice, or holds anything that `check_plain` refuses.
    """
    if not path.is_file():
        raise InputError(f"{name} is not a file; correct the path or put the file there.")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"{name} has more than {MOST_BYTES} bytes, which no config has; name another file.")
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        data = (
            json.loads(content, object_pairs_hook=_unique)
            if kind == "JSON"
            else _Loader(content, name).get_single_data()
        )
    # Any exception, because a wrong date or number in YAML raises ValueError, IndexError and others.
    except Exception as error:
        raise InputError(f"{name} is no valid {kind}: {' '.join(str(error).split())}.") from None
    check_plain(data, name)
    return data


def check_plain(data: Any, name: str) -> None:
    """Raise `InputError` if data, which messages call `name`, are not what a person writes into a config.

    Refused are too many values, too deep nesting, keys that are no texts, too long texts, control characters, and
    integers of more than 64 bits.
    """
    count, rest = 0, [(data, 0)]
    while rest:
        value, depth = rest.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise InputError(
                f"{name} holds more than {MOST_VALUES} values, or nests them more than {DEEPEST} deep, which no config"
                " does; name another file."
            )
        if isinstance(value, Mapping):
            if other := [key for key in value if not isinstance(key, str)]:
                raise InputError(f"{name}: the key {other[0]!r} is no text; put it in quotes.")
            rest += [(one, depth + 1) for pair in value.items() for one in pair]
        elif isinstance(value, list | tuple):
            rest += [(one, depth + 1) for one in value]
        elif isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                raise InputError(f"{name}: {value[:40]!r}… is longer than {LONGEST_TEXT} characters; write less.")
            if OBEYED.search(value.rstrip("\n")):
                raise InputError(f"{name}: {value!r} has control characters in it; write it in one line of plain text.")
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise InputError(f"{name}: an integer has more than 64 bits; write a smaller one.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, of which PyYAML silently takes the last, and aliases and depth, which can fill memory."""

    def __init__(self, content: bytes, name: str):
        super().__init__(io.BytesIO(content))
        self.name, self.depth = name, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.get_event()
            raise yaml.MarkedYAMLError(problem="write out what *name repeats", problem_mark=alias.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=f"it is nested more than {DEEPEST} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    problem = f"the key {key.value!r} is there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)
