"""A rule's log tells that it ran and how it failed, and the terminal has one sentence."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, warnings
from vit2onnx.errors import InputError, InternalError
from vit2onnx.logs import logging_to
with logging_to(sys.argv[1]):
    {}
"""
TIME = r"[\d-]+ [\d:,]+"


def run(log: Path, statement: str) -> tuple[int, str]:
    """Exit status and standard error of a script that does one thing."""
    command = [sys.executable, "-c", PROGRAM.format(statement), log]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_success_is_logged_with_its_time_and_warnings_and_not_shown(tmp_path: Path):
    assert run(tmp_path / "log", "warnings.warn('careful')") == (0, "")
    first, *others, last = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(rf"{TIME} INFO started", first)
    assert "UserWarning: careful" in "".join(others)
    assert re.fullmatch(rf"{TIME} INFO finished in \d+\.\d s", last)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("raise InputError('one.pth is empty; get another.')", "one.pth is empty; get another."),
        (
            "raise InternalError('norm is odd')",
            "This is a fault of vit2onnx, unless a file in results/ was changed by hand: norm is odd.",
        ),
        ("[][0]", "IndexError: list index out of range"),
        ("open('/none', 'rb')", "/none: No such file or directory; put this right and run again, what is finished"),
        ("open('/dev/full', 'w').write('x' * 99999)", "No space left on device; free some space and run again, what"),
    ],
)
def test_failure_is_one_sentence_with_its_traceback_in_the_log(tmp_path: Path, statement: str, sentence: str):
    status, shown = run(tmp_path / "log", statement)
    assert status == 1
    error, where = shown.splitlines()
    assert error.startswith("error: ") and sentence in error
    assert where == f"       traceback in {tmp_path / 'log'}"
    assert "Traceback (most recent call last)" in (tmp_path / "log").read_text()


def test_a_disk_too_full_for_the_log_is_one_sentence_too():
    status, shown = run(Path("/dev/full"), "open('/dev/full', 'w').write('x' * 99999)")
    assert status == 1
    assert len(shown.splitlines()) == 2
    assert "No space left on device; free some space and run again" in shown
