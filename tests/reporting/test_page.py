"""How figures and names are written, the same on all pages."""

import math

import pytest

from vit2onnx.reporting.page import PREPARATIONS, in_words, number, percent


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
            "onnx_unoptimized - transformers, max |difference| (worst at onnx 48x112, batch 1, cls 0)",
            "ONNX, not optimised - Hugging Face transformers, max |difference| (worst at onnx 48x112, batch 1, cls 0)",
        ),
        ("publisher_float64 - truth, max |difference|", "the publisher's code in float64 - float64, max |difference|"),
        ("equinox - published features, max |difference|", "Equinox - published features, max |difference|"),
    ],
)
def test_names_are_those_that_readers_know(what: str, words: str) -> None:
    assert in_words(what) == words


def test_ways_to_prepare_photographs_have_names_of_their_own() -> None:
    assert in_words("ours - publisher, grey levels", PREPARATIONS) == "ours - the publisher's transform, grey levels"
    assert in_words("ours - publisher_float, x", PREPARATIONS) == "ours - the same on a GPU or an old CPU, x"
