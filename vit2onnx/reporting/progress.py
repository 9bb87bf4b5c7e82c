"""What Snakemake says of jobs, in one line each. Standard library only, because the Snakefile imports this module."""

import logging
import re
import time
from pathlib import Path

from vit2onnx import job

# How Snakemake says that a job was killed, which is the system's way out when memory is short.
KILLED = re.compile(r"SIGKILL|exit status 137\b")


class InOneLine(logging.Filter):
    """Turns Snakemake's records on jobs into plain messages, before a handler shows them.

    The sentence of a job that failed is taken from the end of its log, and told once if several jobs fail alike.
    `progress` asks for a line when a job begins and ends: without a terminal, the logger `rich` shows nothing of jobs.
    """

    def __init__(self, *, progress: bool):
        super().__init__()
        self.progress = progress
        self.jobs: dict[int, str] = {}
        self.last = ""
        self.told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        event, text = getattr(record, "event", None), record.getMessage()
        if event == "error" and "CalledProcessError" in text:
            if f"exit status {job.TOLD}." in text:
                return False
            if KILLED.search(text):
                _say(record, f"{job.SENTENCE}a job was killed: {job.OUT_OF_MEMORY}")
        elif event == "job_error":
            _say(record, self._failure(record.__dict__["rule_name"], [Path(log) for log in record.__dict__["log"]]))
        elif event == "job_info" and self.progress:
            told = self.jobs[record.__dict__["jobid"]] = record.__dict__["rule_msg"] or record.__dict__["rule_name"]
            _say(record, f"{time.strftime('%H:%M:%S')}  started: {told}")
        elif event == "job_finished":
            self.last = self.jobs.get(record.__dict__["job_id"], "")
        elif event == "progress" and self.progress:
            done, total = record.__dict__["done"], record.__dict__["total"]
            _say(record, f"{time.strftime('%H:%M:%S')}  {done} of {total} done: {self.last}")
        return True

    def _failure(self, rule: str, logs: list[Path]) -> str:
        log = next((log for log in logs if log.is_file()), None)
        if log is None:
            return f"{job.SENTENCE}{rule} failed before it could write a log."
        sentence = (log.read_text("utf-8", errors="replace").splitlines() or [""])[-1]
        if not sentence.startswith(job.SENTENCE):
            return f"{job.SENTENCE}{rule} failed; its log is {log}"
        if sentence in self.told:
            return f"{job.SENTENCE}the same in {rule}; traceback in {log}"
        self.told.add(sentence)
        return f"{sentence}\n       traceback in {log}"


def _say(record: logging.LogRecord, message: str) -> None:
    """Make a record a plain message."""
    record.msg, record.args = message, None
    record.__dict__["event"] = None
