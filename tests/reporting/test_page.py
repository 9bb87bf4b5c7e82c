"""How figures and names are written, the same on all pages."""

import math

import pytest

from vit2onnx.parity.finding import Finding
from vit2onnx.reporting.page import breakable, fault_in_words, in_words, number, percent, with_code


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_finite(value: float | None) -> None:
    assert number(value) == "not finite"


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (1.0, "100 %"),
        (1 - 1e-9, "99.99 %"),
        (0.99999, "99.99 %"),
        (0.57, "57 %"),
        (1 - 0.04, "96 %"),
        (0.0, "0 %"),
        (math.nan, "not finite"),
    ],
)
def test_a_share_is_rounded_down(share: float, written: str) -> None:
    assert percent(share) == written


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (
            Finding("reference", "max", 0.0, 1.0, "onnx_unoptimized", "transformers", place="onnx 48x112, cls 0"),
            "ONNX, not optimised against Hugging Face transformers, max (worst at onnx 48x112, cls 0)",
        ),
        (
            Finding("truth", "max", 0.0, 1.0, "publisher_float64", "truth"),
            "the publisher's code in float64 against float64, max",
        ),
        (Finding("published", "max", 0.0, 1.0, "equinox"), "Equinox, max"),
        (Finding("sanity", "onnx runs", 0.0, 1.0), "onnx runs"),
        (
            Finding("preprocessing", "grey levels", 0.0, 1.0, "ours", "publisher_float"),
            "ours against the same on a GPU or an old CPU, grey levels",
        ),
    ],
)
def test_names_are_those_that_readers_know(finding: Finding, words: str) -> None:
    assert in_words(finding) == words


def test_faults_are_sentences_and_leave_the_words_of_others_alone() -> None:
    finding = Finding("sanity", "runs", 1.0, 0.0, "onnx", detail="Fail: onnx - node {'x': 1}")
    assert fault_in_words(finding) == "ONNX, runs: Fail: onnx - node {'x': 1}"
    finding = Finding("reference", "max", 1e-3, 1e-5, "onnx", "equinox")
    assert fault_in_words(finding) == "ONNX against Equinox, max: 1.0e-03, limit 1.0e-05"
    finding = Finding("truth", "max", math.nan, 10.0, "onnx", "truth", place="cat")
    assert fault_in_words(finding) == "ONNX against float64, max (worst at cat): not finite, limit 10"


def test_names_break_after_dots_and_underscores() -> None:
    assert breakable("blocks.0.attn_raw<") == "blocks.<wbr>0.<wbr>attn_<wbr>raw&lt;"


def test_only_backquotes_become_code() -> None:
    assert with_code("`make <all>` & more") == "<code>make &lt;all&gt;</code> &amp; more"
