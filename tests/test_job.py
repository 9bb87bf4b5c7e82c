"""A rule's log tells that it ran and how it failed, traceback first and one sentence last, whatever fails."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vit2onnx import job

# As Snakemake begins a script.
PROGRAM = """
import sys
from types import SimpleNamespace
snakemake = SimpleNamespace(log=[{log!r}])
from vit2onnx.job import snakemake
import warnings
from vit2onnx.errors import InputError, InternalError
{statement}
"""
TIME = r"[\d-]+ [\d:,]+"


def run(log: Path | str, statement: str) -> tuple[int, str]:
    """Exit status and all that is shown of a script that does one thing."""
    command = [sys.executable, "-c", PROGRAM.format(log=str(log), statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


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
        ("raise InputError('кот.jpg is a\\ncat \\udcff.')", r"кот.jpg is a\ncat \udcff."),
        (
            "raise InternalError('norm is odd')",
            "This is a fault of vit2onnx, unless a file in results/ was changed by hand: norm is odd.",
        ),
        ("[][0]", "IndexError: list index out of range"),
        ("open('/none', 'rb')", "/none: No such file or directory; put this right and run again, what is finished"),
        ("open('/dev/full', 'w').write('x' * 99999)", "No space left on device; free some space and run again, what"),
        ("bytearray(1 << 60)", "memory ran out, most likely; close other programs, or run one job at a time"),
        # As where a script imports what its environment lacks.
        ("import absent", "No module named 'absent'. The Python environment is incomplete"),
    ],
)
def test_failure_is_a_traceback_and_one_sentence_in_the_log(tmp_path: Path, statement: str, sentence: str):
    assert run(tmp_path / "log", statement) == (job.TOLD, "")
    *lines, last = (tmp_path / "log").read_text("utf-8").splitlines()
    assert last.startswith("error: ") and sentence in last
    assert "Traceback (most recent call last)" in "".join(lines)
    assert "finished" not in "".join(lines)


def test_a_disk_too_full_for_the_log_is_told_on_the_terminal():
    status, shown = run("/dev/full", "open('/dev/full', 'w').write('x' * 99999)")
    assert status == job.TOLD
    assert len(shown.splitlines()) == 1
    assert "No space left on device; free some space and run again" in shown


def test_a_job_that_the_user_stops_prints_nothing(tmp_path: Path):
    assert run(tmp_path / "log", "raise KeyboardInterrupt") == (130, "")
    assert (tmp_path / "log").read_text().endswith("error: stopped by the user.\n")


def test_scripts_open_their_log_before_other_imports():
    for script in (Path(__file__).parents[1] / "workflow" / "scripts").glob("*.py"):
        first = re.search(r"^(?:import|from) .*", script.read_text(), re.M)
        assert re.fullmatch(r"from vit2onnx\.job import (log, )?snakemake", first[0]), script.name


def test_what_imports_a_script_gets_no_log_and_no_snakemake(tmp_path: Path):
    assert job.snakemake is None


def test_a_log_holds_nothing_that_a_terminal_would_obey(tmp_path: Path):
    name = r"'a\x1b[2J\u202e' + 'b' * 99999"
    raised = f"error = InputError({name}); error.add_note({name}); raise error from ValueError({name})"
    assert run(tmp_path / "log", f"warnings.warn({name}); {raised}") == (job.TOLD, "")
    log = (tmp_path / "log").read_text("utf-8")
    assert r"a\x1b[2J\u202eb" in log and "\x1b" not in log and "\u202e" not in log
    assert len(log) < 20_000 and len(log.splitlines()[-1]) < 2100
