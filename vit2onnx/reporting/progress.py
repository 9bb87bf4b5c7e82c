"""Snakemake's messages on jobs, in one line each. Standard library only, because the Snakefile imports this module."""

import logging
import re
import time
from pathlib import Path

from vit2onnx import job

# How Snakemake says that a job was killed, as the system does when memory is short.
KILLED = re.compile(r"SIGKILL|exit status 137\b")


class InOneLine(logging.Filter):
    """Turns Snakemake's records on jobs into plain messages, before a handler shows them.

    The sentence on a failed job is the last line of its log. If several jobs fail alike, it is shown once. `progress`
    asks for a line when a job begins and ends, because without a terminal the logger `rich` shows nothing of jobs.
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
            self._tell(record)
        elif event == "job_info" and self.progress:
            told = self.jobs[record.__dict__["jobid"]] = record.__dict__["rule_msg"] or record.__dict__["rule_name"]
            _say(record, f"{time.strftime('%H:%M:%S')}  started: {told}")
        elif event == "job_finished":
            self.last = self.jobs.get(record.__dict__["job_id"], "")
        elif event == "progress" and self.progress:
            done, total = record.__dict__["done"], record.__dict__["total"]
            _say(record, f"{time.strftime('%H:%M:%S')}  {done} of {total} done: {self.last}")
        return True

    def _tell(self, record: logging.LogRecord) -> None:
        """Show why a job failed, by its log. If the log does not say, the handler shows the logs that exist."""
        rule = record.__dict__["rule_name"]
        logs = record.__dict__["log"] = [log for log in record.__dict__["log"] if Path(log).is_file()]
        lines = Path(logs[0]).read_text("utf-8", errors="replace").splitlines() if logs else []
        sentence = lines[-1] if lines else ""
        if sentence in self.told:
            _say(record, f"{job.SENTENCE}the same in {rule}; traceback in {logs[0]}")
        elif sentence.startswith(job.SENTENCE):
            self.told.add(sentence)
            _say(record, f"{sentence}\n       traceback in {logs[0]}")
        elif self.progress:
            _say(record, f"{job.SENTENCE}{rule} failed; {f'its log is {logs[0]}' if logs else 'it wrote no log'}.")


def _say(record: logging.LogRecord, message: str) -> None:
    """Make a record a plain message."""
    record.msg, record.args = message, None
    record.__dict__["event"] = None
