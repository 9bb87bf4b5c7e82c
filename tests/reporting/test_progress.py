"""Snakemake's records on jobs, of which the terminal is told in one line each."""

import logging
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from vit2onnx import job
from vit2onnx.reporting.progress import InOneLine


def shown(words: InOneLine, event: str | None, message: str = "None", **extra: Any) -> str | None:
    """What a handler is left to show of a record: nothing, a plain message, or what it makes of the event."""
    record = logging.makeLogRecord({"msg": message, "event": event, **extra})
    if not words.filter(record):
        return None
    return record.getMessage() if record.event is None else f"<{record.event}>"


def failed(words: InOneLine, rule: str, status: int, log: Path) -> list[str]:
    """What is shown of the two records that a job leaves that failed."""
    error = f"RuleException:\nCalledProcessError in file x.smk:\n{CalledProcessError(status, 'python x.py')}"
    told = [shown(words, "error", error), shown(words, "job_error", rule_name=rule, log=[str(log)])]
    return [text for text in told if text is not None]


@pytest.fixture
def words() -> InOneLine:
    return InOneLine(progress=False)


def test_an_input_error_is_one_sentence_and_is_told_once(tmp_path: Path, words: InOneLine):
    (tmp_path / "log").write_text(f"Traceback\n  many lines\n{job.SENTENCE}a.jpg is broken; mend it.\n")
    assert failed(words, "first", job.TOLD, tmp_path / "log") == [
        f"error: a.jpg is broken; mend it.\n       traceback in {tmp_path / 'log'}"
    ]
    assert failed(words, "second", job.TOLD, tmp_path / "log") == [
        f"error: the same in second; traceback in {tmp_path / 'log'}"
    ]


@pytest.mark.parametrize(
    ("progress", "said"), [(True, "error: run_onnx failed; it wrote no log."), (False, "<job_error>")]
)
def test_a_job_that_dies_before_its_log_exists_is_told_of(tmp_path: Path, progress: bool, said: str):
    words = InOneLine(progress=progress)
    assert failed(words, "run_onnx", 127, tmp_path / "absent") == ["<error>", said]
    # The logger `rich` would read it, and fail.
    record = logging.makeLogRecord({"event": "job_error", "rule_name": "x", "log": [str(tmp_path / "absent")]})
    assert words.filter(record) and record.log == []


@pytest.mark.parametrize("status", [-9, 137])
def test_a_killed_job_is_told_of_memory_and_the_way_out(tmp_path: Path, status: int):
    (tmp_path / "log").write_bytes(b"2026 INFO started \xff\n")
    told, where = failed(InOneLine(progress=True), "run_onnx", status, tmp_path / "log")
    assert "memory ran out" in told and "CORES=1" in told
    assert where == f"error: run_onnx failed; its log is {tmp_path / 'log'}."


@pytest.mark.parametrize("status", [1, 13, 37, 65 + 128, -11])
def test_other_ends_keep_snakemakes_words(tmp_path: Path, words: InOneLine, status: int):
    (tmp_path / "log").write_text("")
    assert failed(words, "x", status, tmp_path / "log")[0] == "<error>"


def test_without_a_terminal_jobs_are_counted():
    words = InOneLine(progress=True)
    assert shown(words, "job_info", jobid=7, rule_msg="tiny: exporting", rule_name="export").endswith(
        "started: tiny: exporting"
    )
    assert shown(words, "job_finished", job_id=7) == "<job_finished>"
    assert shown(words, "progress", done=3, total=22).endswith("3 of 22 done: tiny: exporting")


def test_with_a_terminal_rich_shows_jobs(words: InOneLine):
    assert shown(words, "job_info", jobid=7, rule_msg="m", rule_name="r") == "<job_info>"
    assert shown(words, "progress", done=3, total=22) == "<progress>"
    assert shown(words, None, "plain") == "plain"
