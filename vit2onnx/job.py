"""The job that a script runs in, and its log. Scripts import this first, so that failed imports are logged too.

Standard library only. Everything goes into the rule's log. Its last line is for the person at the keyboard, and
`reporting/progress.py` shows it on the terminal.
"""

import atexit
import errno
import logging
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from vit2onnx.errors import InputError, InternalError, printable, shortened

# The exit status of a job whose log ends with a sentence on why it failed.
TOLD = 65
SENTENCE = "error: "
OUT_OF_MEMORY = (
    "memory ran out, most likely; close other programs, or run one job at a time (make run CORES=1, or"
    " snakemake --cores 1), and run again. What is finished has been kept."
)

log = logging.getLogger("vit2onnx")


class _Formatter(logging.Formatter):
    """Makes each line of a log printable, and shortens long records."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, shortened(super().format(record), 10**6).split("\n")))


def log_to(path: str) -> None:
    """Log to the file at `path` for as long as this process lives.

    An exception that nothing catches leaves its traceback there, then one sentence, and ends the process with `TOLD`.
    """
    sys.excepthook = partial(_fail, path)
    # Names of the user's files may be of any script, whatever the locale is.
    logging.basicConfig(
        filename=path,
        filemode="w",
        encoding="utf-8",
        errors="backslashreplace",
        force=True,
    )
    logging.getLogger().handlers[0].setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Otherwise a full disk, on which the log cannot be written either, would be reported in many lines.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    log.setLevel(logging.INFO)
    log.info("started")
    start = time.monotonic()
    atexit.register(lambda: log.info("finished in %.1f s", time.monotonic() - start))


def _fail(path: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.error("".join(traceback.format_exception(kind, error, trace)))
    logging.shutdown()
    sentence = SENTENCE + printable(" ".join(sentence_on(error).split()))
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sentence}\n")
    except OSError:
        # On a full disk there is no room for it in the log.
        print(sentence, file=sys.stderr, flush=True)
    # Not by Python itself, because that would log `finished` first, and end with 1, which says nothing.
    os._exit(130 if isinstance(error, KeyboardInterrupt) else TOLD)


def sentence_on(error: BaseException) -> str:
    """What an exception means for the person at the keyboard, and the way out."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, InternalError):
        return f"This is a fault of vit2onnx, unless a file in results/ was changed by hand: {error}."
    if isinstance(error, KeyboardInterrupt):
        return "stopped by the user."
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, ImportError):
        return f"{error}. The Python environment is incomplete or mixed with another; delete .venv and run make again."
    if isinstance(error, OSError) and error.strerror:
        way_out = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "put this right"
        where = error.filename or Path.cwd()
        return f"{where}: {error.strerror}; {way_out} and run again, what is finished has been kept."
    return f"{type(error).__name__}: {error}"


# The object that Snakemake gives to a script; none if something else imports this module.
snakemake: Any = getattr(sys.modules["__main__"], "snakemake", None)
if snakemake is not None:
    log_to(snakemake.log[0])
