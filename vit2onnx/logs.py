"""One way to log for all scripts: everything into the rule's log, what the user must know to the terminal."""

import errno
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit2onnx.errors import InputError, InternalError


@contextmanager
def logging_to(path: str) -> Iterator[None]:
    """Log to the file at `path`; an exception leaves its traceback there and one sentence on the terminal.

    Ends the process with status 1 where an exception would leave the context.
    """
    logging.basicConfig(filename=path, filemode="w", format="%(asctime)s %(levelname)s %(message)s", force=True)
    # Or a full disk would be told in many lines, because the log cannot be written either.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    log = logging.getLogger("vit2onnx")
    log.setLevel(logging.INFO)
    log.info("started")
    start = time.monotonic()
    try:
        yield
    except Exception as error:
        log.error("".join(traceback.format_exception(error)))
        print(f"error: {_sentence(error)}\n       traceback in {path}", file=sys.stderr)
        sys.exit(1)
    log.info("finished in %.1f s", time.monotonic() - start)


def _sentence(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, InternalError):
        return f"This is a fault of vit2onnx, unless a file in results/ was changed by hand: {error}."
    if isinstance(error, OSError) and error.strerror:
        way_out = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "put this right"
        where = error.filename or Path.cwd()
        return f"{where}: {error.strerror}; {way_out} and run again, what is finished has been kept."
    return f"{type(error).__name__}: {error}"
