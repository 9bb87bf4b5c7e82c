"""What all pages share: their templates and the way in which numbers are written."""

import base64
import math
import re
from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from vit2onnx.parity.finding import Finding
from vit2onnx.spec.subject import DOUBLE, TRUTH

# What is compared, in words for readers who do not know the project.
SUBJECTS = {
    "transformers": "Hugging Face transformers",
    "publisher": "the publisher's code",
    "kornia": "kornia",
    "equinox": "Equinox",
    "onnx": "ONNX",
    "onnx_unoptimized": "ONNX, not optimised",
    TRUTH: "float64",
}
SUBJECTS |= {f"{name}{DOUBLE}": f"{words} in float64" for name, words in SUBJECTS.items()}
# Ways to prepare photographs, likewise.
PREPARATIONS = {
    "publisher": "the original transform",
    "publisher_float": "the same on a GPU or an old CPU",
    "transformers": "transformers' processor",
    "transformers_pil": "transformers' processor on Pillow",
    "transformers_inputs": "transformers' NaFlex inputs: patches, mask and grid",
    "transformers_ids": "transformers' tokenizer",
    "tokenizers_ids": "the library tokenizers, from text in lower case",
}
TOKEN_GROUPS = {
    **{"cls": "CLS", "registers": "registers", "patches": "patches", "patches_mean": "mean of patches"},
    **{"tokens": "tokens", "pooled": "embedding", "image_embeds": "images", "text_embeds": "texts", "logits": "logits"},
}
# What readers call cases and their sizes, by the kinds of interfaces.
NOUNS = {"image": ("photograph", "size"), "text": ("text", "length"), "pair": ("image-text set", "")}


def number(value: float | None) -> str:
    """A measured figure with two or three digits."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.1e}" if 0 < value < 0.01 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share, rounded down, so that one of many that differs is not lost."""
    if not math.isfinite(share):
        return number(share)
    exact = Decimal(repr(float(share))) * 100
    return f"{float(exact.quantize(Decimal('0.01'), ROUND_DOWN)):g} %"


def in_words(finding: Finding) -> str:
    """What a finding is of, in names that readers know."""
    return finding.what_in(_names(finding), "against")


def fault_in_words(finding: Finding) -> str:
    """A finding that did not pass, likewise; what a runtime or a check says itself stays as it is."""
    what = in_words(finding)
    if finding.detail:
        return ": ".join(filter(None, (what, finding.detail)))
    return f"{what}: {number(finding.measured)}, limit {number(finding.limit)}"


def _names(finding: Finding) -> Mapping[str, str]:
    return PREPARATIONS if finding.leg == "preprocessing" else SUBJECTS


def with_code(text: str) -> Markup:
    """Text in which what stands between backquotes is code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def breakable(name: str) -> Markup:
    """A technical name that a narrow column may break after a dot or an underscore."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def plain(value: float) -> str:
    """A measured figure with two digits and without an exponent, for readers who are no engineers."""
    return str(np.format_float_positional(value, precision=2, fractional=False, trim="-"))


def cosine(value: float | None) -> str:
    """A cosine as its distance from one, because all of them begin with many nines."""
    if value == 1:
        return "1"
    return number(value) if value is None or math.isnan(value) else f"1 - {max(0.0, 1 - value):.0e}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def compared(kind: str, count: int, sizes: int) -> str:
    """How many photographs, texts or sets of both were compared, and at how many sizes."""
    noun, size = NOUNS[kind]
    # A set has its sizes in place of a name.
    return (
        f"{counted(count, noun)} at {'up to ' if sizes != 1 else ''}{counted(sizes, size)}"
        if size
        else counted(sizes, noun)
    )


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
ENVIRONMENT.filters |= {
    function.__name__: function
    for function in (number, percent, cosine, counted, compared, megabytes, in_words, with_code, breakable)
}
