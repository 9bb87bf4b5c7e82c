"""Promises that vit2onnx makes to itself hold however Python is started."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from vit2onnx.errors import LONGEST, InputError, InternalError, first_few, printable

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("vit2onnx", "workflow/scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
# Of the tests that break a promise, those of each module.
PROMISES = [
    "weights/test_archive.py::test_a_model_that_lacks_a_leaf_is_an_error",
    "weights/test_archive.py::test_leaves_other_than_the_skeletons_are_not_written",
    "weights/test_archive.py::test_serialising_another_leaf_than_the_skeletons_fails",
    "weights/test_keytable.py::test_a_target_with_two_lines_is_a_fault_of_the_table",
    "weights/test_mapping.py::test_an_archive_that_does_not_fit_the_model_is_a_fault_of_ours",
    "exporting/test_graph.py::test_an_edge_that_is_not_the_recipes_is_found",
    "exporting/test_weights.py::test_a_tensor_that_lies_nowhere_cannot_be_referred_to",
    # And those by which edited or damaged files are found.
    "test_files.py::test_any_flipped_bit_of_arrays_is_named_or_changes_nothing",
    "handover/test_judging.py::test_an_edited_verdict_is_named",
    "handover/test_judging.py::test_evidence_that_changed_is_named",
    "handover/test_judging.py::test_rows_that_are_missing_are_told_of",
    "handover/test_judging.py::test_a_damaged_record_is_named",
]


def test_no_promise_is_an_assert_statement():
    asserts = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert len(SOURCES) > 50
    assert not asserts


def test_promises_hold_without_assert_statements():
    """These tests expect `InternalError` or `InputError` by pytest.raises, which works under -O as well."""
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # Pytest says that it cannot rely on assert statements outside of test modules.
    command += ["-W", "ignore::pytest.PytestConfigWarning", *(f"tests/{name}" for name in PROMISES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tensor \x1b[2J\x1b]0;owned\x07", r"tensor \x1b[2J\x1b]0;owned\x07"),
        ("a\r\nerror: b\tc\x00\x7f\x9b", r"a\r\nerror: b\tc\x00\x7f\x9b"),
        ("photo\u202egpj.exe\u2066\u200f", r"photo\u202egpj.exe\u2066\u200f"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        (b"caf\xe9.pth".decode(errors="surrogateescape"), r"caf\udce9.pth"),
        ("Größe 4\u202fMB, кот, 犬, é, \xa0, 👩\u200d🔬", "Größe 4\u202fMB, кот, 犬, é, \xa0, 👩\u200d🔬"),
    ],
    ids=["escape", "control", "direction", "separator", "bytes", "letters"],
)
@pytest.mark.parametrize("kind", [InputError, InternalError])
def test_a_message_shows_what_a_terminal_would_obey(kind: type[Exception], text: str, shown: str):
    assert str(kind(text)) == shown
    # In a message that quotes another one, too.
    assert str(kind(f"{kind(text)}")) == shown


@pytest.mark.parametrize("letter", ["x", "\x1b", "\U0001f600"])
@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST, LONGEST + 1, 10**7])
def test_a_long_message_keeps_its_beginning_and_its_way_out(letter: str, length: int):
    message = str(InputError(f"c.yaml: {letter * length}; write less."))
    assert len(message) <= LONGEST
    assert message.startswith("c.yaml: ") and message.endswith("; write less.")
    assert printable(message) == message


@pytest.mark.parametrize(("count", "told"), [(0, ""), (1, "a"), (3, "a, b, c"), (4, "a, b, c, and 1 more")])
def test_of_many_texts_the_first_few_are_told(count: int, told: str):
    assert first_few(list("abcdef"[:count])) == told
