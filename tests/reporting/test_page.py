"""How figures and names are written, the same on all pages."""

import math

import pytest

from vit2onnx.parity.finding import Finding
from vit2onnx.reporting.page import PREPARATIONS, fault_in_words, in_words, number, percent, plainly, with_code


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
    ("what", "words"),
    [
        (
            "onnx_unoptimized - transformers, max |difference| (worst at onnx 48x112, cls 0)",
            "ONNX, not optimised against Hugging Face transformers, max |difference| (worst at onnx 48x112, cls 0)",
        ),
        (
            "publisher_float64 - truth, max |difference|",
            "the publisher's code in float64 against float64, max |difference|",
        ),
        ("equinox - published features, max |difference|", "Equinox against published features, max |difference|"),
        (
            "onnx's distance from float64 (root mean square), in multiples of transformers's own",
            "ONNX's distance from float64 (root mean square), in multiples of that of Hugging Face transformers",
        ),
        (
            "onnx - transformers with RoPE periods of its own (float32): max |difference| 2.2e-03, of which these"
            " periods explain 2.1e-03; what is left",
            "ONNX differs from Hugging Face transformers with RoPE periods of its own (float32) by 2.2e-03, of which"
            " the periods explain 2.1e-03; the rest is",
        ),
    ],
)
def test_names_are_those_that_readers_know(what: str, words: str) -> None:
    assert in_words(what) == words


def test_ways_to_prepare_photographs_have_names_of_their_own() -> None:
    assert (
        in_words("ours - publisher, grey levels", PREPARATIONS) == "ours against the publisher's transform, grey levels"
    )
    assert in_words("ours - publisher_float, x", PREPARATIONS) == "ours against the same on a GPU or an old CPU, x"


def test_faults_are_sentences_and_leave_the_words_of_others_alone() -> None:
    known = "onnx - transformers: max |difference| 2.2e-03, of which these periods explain 2.1e-03; what is left"
    told = (
        "ONNX differs from Hugging Face transformers by 2.2e-03, of which the periods explain 2.1e-03; the rest is 1.00"
    )
    assert fault_in_words(Finding("reference", known, 1e-3, 1e-5)).startswith(told)
    said = fault_in_words(Finding("sanity", "onnx: runs", 1.0, 0.0, "Fail: onnx - node {'x': 1}"))
    assert said == "ONNX: runs: Fail: onnx - node x: 1"


def test_details_have_no_python_in_them() -> None:
    interface = "{'pixel_values': 'tensor(float)'} -> {'a': 'tensor(float)', 'b': 'tensor(float)'}"
    assert plainly(interface) == "pixel_values: tensor(float) to a: tensor(float), b: tensor(float)"
    assert plainly("4 inputs in batches of [1, 3]") == "4 inputs in batches of 1, 3"
    assert plainly("[ONNXRuntimeError] : 1") == "[ONNXRuntimeError] : 1"


def test_only_backquotes_become_code() -> None:
    assert with_code("`make <all>` & more") == "<code>make &lt;all&gt;</code> &amp; more"
