"""Plain data of YAML and JSON: what is no config is refused at once, in words."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit2onnx.errors import LONGEST, InputError
from vit2onnx.spec.plain_data import check_plain, read_data
from vit2onnx.spec.schema import faults_of
from vit2onnx.spec.settings import settings_of

ROOT = Path(__file__).parents[2]

# Nine lists of nine names each are 387 million values.
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_data(path, path.name)
    sentence = str(caught.value)
    assert sentence.startswith(path.name) and sentence.isprintable() and len(sentence) <= LONGEST
    return sentence


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.yaml", BOMB, "write out what *name repeats"),
        ("a.yaml", "a: &a {x: 1}\nb: {<<: [*a, *a]}", "write out what *name repeats"),
        ("a.yaml", "[" * 100_000, "nested more than 20 deep"),
        ("a.yaml", "- " * 50_000 + "x", "nested more than 20 deep"),
        ("a.json", "[" * 100_000, "is no valid JSON"),
        ("a.json", "[" * 30 + "]" * 30, "nests them more than 20 deep"),
        ("a.json", '{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ("a.yaml", "a: {b: 1, c: 1, b: 2}", "the key 'b' is there twice"),
        ("a.yaml", "x" * 300_000, "has more than 262144 bytes"),
        ("a.json", "1" * 5000, "is no valid JSON"),
        ("a.yaml", "1" * 5000, "is no valid YAML"),
        ("a.yaml", "a: 0x" + "f" * 50_000, "an integer has more than 64 bits"),
        ("a.yaml", "a: 2020-99-99", "is no valid YAML"),
        ("a.yaml", "a: !!python/object/apply:os.system [touch T]", "is no valid YAML"),
        ("a.yaml", "[" + "x, " * 50_000 + "]", "holds more than 20000 values"),
        ("a.yaml", "1: x", "the key 1 is no text"),
        ("a.yaml", '"a\\u202eb": x', "has control characters"),
        ("a.yaml", '{a: {b: ["x\\e[2J"]}}', "has control characters"),
        ("a.yaml", "a: |\n  one\n  two", "has control characters"),
        ("a.yaml", "x" * 200_000, "is longer than 4000 characters"),
        ("a.yaml", "a: \x00", "is no valid YAML"),
        ("a.json", "\x00", "is no valid JSON"),
        ("a.json", "", "is no valid JSON"),
    ],
)
def test_what_is_no_config_is_refused_in_words(tmp_path: Path, name: str, content: str, sentence: str):
    (tmp_path / name).write_text(content)
    assert sentence in refusal(tmp_path / name)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "missing", "sparse", "bytes"])
def test_what_is_no_file_of_text_is_refused_in_words(tmp_path: Path, kind: str):
    path = tmp_path / "a.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        path.write_text("a: 1")
        os.truncate(path, 10**12)
    elif kind == "bytes":
        path.write_bytes(bytes(range(256)))
    refusal(path)


def test_a_config_given_otherwise_is_bounded_too(tmp_path: Path):
    """As a mapping of another workflow, or on the command line, which are in no file."""
    bomb: Any = "x"
    for _ in range(40):
        bomb = {"a": bomb, "b": bomb}
    for config in ({"exports": bomb}, {"a": [["x"] * 200] * 200}, {"weights": "\x1b[2J"}, {"a": 10**30}):
        with pytest.raises(InputError, match=r"^config"):
            settings_of(config, ROOT, {})


def test_plain_data_of_every_kind_are_taken(tmp_path: Path):
    data = {"a": [1, -2.5, None, True, "é\n", {"b": {}}], "c": 2**63 - 1}
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_data(tmp_path / "a.json", "a.json") == data
    (tmp_path / "a.yaml").write_text('{a: [1, -2.5, null, true, "é\\n", {b: {}}], c: 9223372036854775807}')
    assert read_data(tmp_path / "a.yaml", "a.yaml") == data


PIECES = "a:|- |  |&a |*a|<<: |{|}|[|]|!!int |!!binary |? |: |>|'|%YAML 9.9|---|...|2020-02-31|0x|1e999|.nan|1:2:3|#"
TEXTS = st.lists(st.sampled_from([*PIECES.split("|"), "|", "\n", "\t", "\ufeff", "\x1b"]), max_size=25).map("".join)


def outcome(function: Callable[..., Any], *given: Any) -> str:
    """What an `InputError` says; nothing if there is none, and any other exception as it is."""
    try:
        function(*given)
    except InputError as error:
        return str(error)
    return ""


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), TEXTS.map(str.encode)))
def test_any_bytes_are_plain_data_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    for name in ("fuzz.yaml", "fuzz.json"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(content)
        assert f"{outcome(read_data, path, name)} ".isprintable()


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=20,
)
CONFIG = settings_of({}, ROOT, {})
KEYS = st.sampled_from(sorted(CONFIG.keys() - {"limits"}))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(KEYS, PLAIN)
def test_any_value_in_a_config_is_compared_with_the_schema(key: str, value: Any):
    schema = ROOT / "workflow" / "schemas" / "config.schema.yaml"
    config = {name: it for name, it in CONFIG.items() if name != "limits"} | {key: value}
    if not outcome(check_plain, config, "config"):
        faults_of(config, schema)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(PLAIN)
def test_any_value_of_the_command_line_is_taken_as_it_is_or_as_a_number(value: Any):
    assert outcome(settings_of, {"exports": {"a": value}}, ROOT, {"exports": {"a": value}}) is not None
