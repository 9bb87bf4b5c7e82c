"""What all pages share: their templates and the way in which numbers are written."""

import base64
import math
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

# What is compared, in words for readers who do not know the project.
SUBJECTS = {
    "transformers": "Hugging Face transformers",
    "publisher": "the publisher's code",
    "equinox": "Equinox",
    "onnx": "ONNX",
    "onnx_unoptimized": "ONNX, not optimised",
}
TOKEN_GROUPS = {"cls": "CLS", "registers": "registers", "patches": "patches", "patches_mean": "mean of patches"}


def number(value: float) -> str:
    """A measured figure with two or three digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "not finite"
    return f"{value:.1e}" if 0 < value < 0.01 else f"{value:.3g}"


def plain(value: float) -> str:
    """A measured figure with two digits and without an exponent, for readers who are no engineers."""
    return str(np.format_float_positional(value, precision=2, fractional=False, trim="-"))


def cosine(value: float) -> str:
    """A cosine as its distance from one, because all of them begin with many nines."""
    return number(value) if math.isnan(value) else f"1 - {max(0.0, 1 - value):.0e}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def data_uri(kind: str, content: bytes) -> str:
    """What a page holds in itself instead of loading it; `kind` is the media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {"number": number, "cosine": cosine, "counted": counted, "megabytes": megabytes}
