"""The two errors of vit2onnx: one is for the person at the keyboard to mend, the other is a fault of vit2onnx."""

import re

# The most characters of a message. The beginning says what is wrong, the end says the way out.
LONGEST = 2000
# What a terminal obeys or reorders instead of showing it: control characters, ANSI escapes among them, other ends of
# lines, marks of the direction of writing, and bytes that are no text.
OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text of anybody's as it may be shown: one line, in which nothing is obeyed and the middle of much is left out.

    Names of tensors and files, YAML and JSON come from strangers, and messages quote them.
    """
    # Cut before as well, because a text may have hundreds of millions of characters.
    return shortened(OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), shortened(text)))


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text without its middle, if it has more than so many characters."""
    if len(text) <= longest:
        return text
    mark = f" … ({len(text)} characters in all) … "
    return text[: longest * 3 // 4 - len(mark)] + mark + text[-(longest // 4) :]


class _PrintableError(Exception):
    """An error whose message may be shown, whatever it quotes."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(_PrintableError):
    """Invalid input. The message names it and says what to do."""


class DamagedError(InputError):
    """A file is not as it was written, so what is computed from it says nothing of the model."""


class InternalError(_PrintableError):
    """A promise that vit2onnx makes to itself is broken. The message names what was found and what was promised.

    Raised instead of `assert`, which Python leaves out under `-O` and `PYTHONOPTIMIZE`.
    """
