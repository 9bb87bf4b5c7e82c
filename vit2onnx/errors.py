"""The one error that the person at the keyboard is meant to read."""


class InputError(Exception):
    """Something given to vit2onnx is wrong: one sentence that names it and the way out."""
