"""The two errors of vit2onnx, and texts for their messages. Standard library only.

One error is for the person at the keyboard to mend, the other is a fault of vit2onnx.
"""

import re
from collections.abc import Sequence

# The most characters of a message. The beginning says what is wrong, the end says the way out.
LONGEST = 2000
# A terminal obeys these or reorders by them, instead of showing them: control characters (ANSI escapes begin with
# one), ends of lines, marks of the direction of writing, and bytes that are no text.
OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text of a stranger as one line that a terminal can show: escaped, and without its middle if it is long.

    Messages quote names of tensors and files, YAML and JSON, which come from strangers.
    """
    # Shortened before as well, because a text may have hundreds of millions of characters.
    return shortened(OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), shortened(text)))


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text, without its middle if it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    mark = f" … ({len(text)} characters in all) … "
    return text[: longest * 3 // 4 - len(mark)] + mark + text[-(longest // 4) :]


def first_few(texts: Sequence[str], joint: str = ", ", most: int = 3) -> str:
    """The first few of some texts, and how many more there are: `a, b, c, and 2 more`."""
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return joint.join([*texts[:most], *more])


class _PrintableError(Exception):
    """An error whose message is printable, whatever it quotes."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(_PrintableError):
    """Invalid input. The message names it and says what to do."""


class DamagedError(InputError):
    """A file is not as it was written, so results computed from it say nothing about the model."""


class InternalError(_PrintableError):
    """A promise that vit2onnx makes to itself is broken. The message names what was found and what was promised.

    Raised instead of `assert`, which Python leaves out under `-O` and `PYTHONOPTIMIZE`.
    """
