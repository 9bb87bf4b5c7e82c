"""The two errors of vit2onnx: one is for the person at the keyboard to mend, the other is a fault of vit2onnx."""


class InputError(Exception):
    """Invalid input. The message names it and says what to do."""


class DamagedError(InputError):
    """A file is not as it was written, so what is computed from it says nothing of the model."""


class InternalError(Exception):
    """A promise that vit2onnx makes to itself is broken. The message names what was found and what was promised.

    Raised instead of `assert`, which Python leaves out under `-O` and `PYTHONOPTIMIZE`.
    """
