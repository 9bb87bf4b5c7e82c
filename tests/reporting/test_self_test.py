"""What became of planted faults: all of them in a table, and one sentence."""

import math
from typing import Any

from vit2onnx.reporting.self_test import self_test_page, self_test_section
from vit2onnx.self_test.verdict import judge_self_test

Plain = dict[str, Any]


def section_of(tested: Plain) -> Plain:
    """What the page shows of a self-test whose rows were changed, so that it is judged again."""
    return self_test_section(tested | {"wrong": judge_self_test(tested)})


def page_of(tested: Plain) -> str:
    return self_test_page(tested | {"wrong": judge_self_test(tested)})


def test_a_self_test_that_passed(tested: Plain) -> None:
    page = page_of(tested)
    assert (
        "Passed: The checks caught 3 of 3 planted faults, named the stage of 2 of 2 in weights, model and graph, and"
        " flagged none of 2 healthy models." in page
    )
    for what in (
        "w1 and w2 exchanged",
        "one element of fc2",
        "ONNX graph",
        "8.1e+04",
        "3.1e+05",
        "1.7e+14",
        "floors, floors_double",
    ):
        assert what in page
    assert page_of(tested) == page


def test_a_fault_that_was_not_caught_fails(tested: Plain) -> None:
    tested["faults"][1] |= {"caught": False, "caught_by": None, "measured": None, "passed": False}
    page = page_of(tested)
    assert '<td class="bad">NO</td>' in page
    # It is named on top, and first in the table.
    assert "FAILED: one element of fc2 (graph, ViT with SwiGLU) passes. The checks caught 2 of 3 planted faults" in page
    assert page.index("<th>one element of fc2") < page.index("<th>w1 and w2")


def test_a_fault_that_was_placed_wrongly_fails(tested: Plain) -> None:
    tested["faults"][0] |= {"passed": False, "named_stage": "norm"}
    assert not section_of(tested)["passed"]
    page = page_of(tested)
    assert "yes, but not as it should be<small>placed at norm</small>" in page
    assert "is placed at norm, equinox and transformers, instead of at blocks.1.mlp_raw" in page


def test_every_limit_has_its_number_of_faults(tested: Plain) -> None:
    assert "<code>floors</code></th><td>10</td><td>2</td><td>17 % of the limit</td>" in page_of(tested)
    tested["tripped"]["grey_levels"] = 0
    page = page_of(tested)
    assert '<code>grey_levels</code></th><td>1.25</td><td class="bad">0</td>' in page
    assert "FAILED: no fault is beyond grey_levels." in page


def test_the_sentence_is_told_once_on_a_page_of_its_own(tested: Plain) -> None:
    page = page_of(tested)
    assert page.count("The checks caught") == 1
    assert "<details" not in page


def test_a_healthy_model_that_was_flagged_fails(tested: Plain) -> None:
    tested["healthy"][0] |= {"flagged": ["onnx - truth: nan > 10"], "floors": None}
    page = page_of(tested)
    assert "is flagged: onnx - truth: nan &gt; 10. The checks caught 3 of 3 planted faults" in page
    assert "and flagged 1 of 2 healthy models." in page
    assert math.isnan(section_of(tested)["worst"]["floors"])


def test_a_fault_that_outputs_do_not_tell_of_fails(tested: Plain) -> None:
    tested["faults"][0] |= {"passed": False, "not_told": ["double"], "tripped": ["floors"]}
    assert not section_of(tested)["passed"]
    page = page_of(tested)
    assert (
        "w1 and w2 exchanged (weights, ViT with SwiGLU) does not show in outputs in double precision; only floors"
        in page
        and " caught it" in page
    )
    assert "yes, but not as it should be" in page


def test_trying_nothing_is_no_proof(tested: Plain) -> None:
    assert not section_of(tested | {"faults": []})["passed"]
    assert not section_of(tested | {"healthy": []})["passed"]


def test_a_fault_in_preprocessing_has_no_place_in_a_model(tested: Plain) -> None:
    page = page_of(tested)
    assert "<th>bicubic for bilinear</th><td>preprocessing</td><td></td><td>pixel_<wbr>values</td>" in page
    assert "None" not in page
