"""Cases: which image at which size."""

import pytest

from vit2onnx.cases import Case, case_of_stages, layer_inputs, sizes_of
from vit2onnx.variants import ExportSpec

STATIC = ExportSpec("static", 1, 224, 224, 23)
WIDE = ExportSpec("wide", 1, 224, None, 23)
DYNAMIC = ExportSpec("dynamic", None, None, None, 23)
LISTED = [(512, 320), (48, 112), (224, 64)]


@pytest.mark.parametrize("case", [Case("astronaut", 224, 160), Case("me@work", 48, 112), Case("a b-c.d", 16, 1600)])
def test_a_case_is_read_as_it_is_written(case):
    assert Case.parse(str(case)) == case


def test_a_case_is_written_height_first():
    assert str(Case("astronaut", 224, 160)) == "astronaut@224x160"


@pytest.mark.parametrize("text", ["astronaut", "astronaut@224", "astronaut@x", "astronaut@axb", ""])
def test_what_is_no_case_is_refused(text):
    with pytest.raises(ValueError, match="invalid literal"):
        Case.parse(text)


def test_cases_sort_by_image_then_size():
    cases = [Case("b", 16, 16), Case("a", 224, 16), Case("a", 16, 224), Case("a", 16, 16)]
    assert list(map(str, sorted(cases))) == ["a@16x16", "a@16x224", "a@224x16", "b@16x16"]


@pytest.mark.parametrize(
    "exports, sizes",
    [
        ([STATIC], [(224, 224)]),
        ([DYNAMIC], sorted(LISTED)),
        ([WIDE], [(224, 64)]),
        ([STATIC, WIDE], [(224, 64), (224, 224)]),
        ([STATIC, DYNAMIC], [(48, 112), (224, 64), (224, 224), (512, 320)]),
        ([], []),
    ],
    ids=["static", "dynamic", "wide", "static and wide", "static and dynamic", "none"],
)
def test_sizes_are_those_listed_that_fit_and_those_that_are_fixed(exports, sizes):
    assert sizes_of(iter(exports), iter(LISTED)) == sizes


def test_a_size_that_is_both_listed_and_fixed_is_compared_once():
    assert sizes_of([STATIC, DYNAMIC], [(224, 224)]) == [(224, 224)]


@pytest.mark.parametrize(
    ("export", "sizes", "size"),
    [
        # The first that is not square, in the order of the list.
        (DYNAMIC, [(224, 224), (160, 288), (48, 112)], (160, 288)),
        (DYNAMIC, [(224, 224), (448, 448)], (224, 224)),
        (WIDE, [(48, 112), (224, 224), (224, 64)], (224, 64)),
        # A fixed size need not be listed.
        (STATIC, [(48, 112)], (224, 224)),
    ],
)
def test_stages_are_compared_where_rows_and_columns_differ(export, sizes, size):
    assert case_of_stages("astronaut", export, sizes) == Case("astronaut", *size)


def test_inputs_of_layers_are_told_from_stages():
    assert layer_inputs({"inputs/blocks.0": 1, "float32/injected/blocks.0.q": 2, "inputs/norm": 3}) == {
        "blocks.0": 1,
        "norm": 3,
    }
