"""One way to log for all scripts: everything into the rule's log, what the user must know to the terminal."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from vit2onnx.errors import InputError


@contextmanager
def logging_to(path: str) -> Iterator[None]:
    """Log to the file at `path`; an exception leaves its traceback there and one sentence on the terminal.

    Ends the process with status 1 where an exception would leave the context.
    """
    logging.basicConfig(filename=path, filemode="w", format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("vit2onnx").setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    except Exception as error:
        logging.error("".join(traceback.format_exception(error)))
        sentence = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        print(f"error: {sentence}\n       traceback in {path}", file=sys.stderr)
        sys.exit(1)
