"""What became of planted faults: all of them in a table, and one sentence."""

import math
from typing import Any

from vit2onnx.reporting.self_test import self_test_page, self_test_section

Comparison = dict[str, Any]


def test_a_self_test_that_passed(tested: Comparison) -> None:
    page = self_test_page(tested)
    assert (
        "Passed: The checks caught 3 of 3 planted faults, named the stage of 2 of 2 in weights, model and graph, and"
        " flagged none of 2 healthy models." in page
    )
    for what in ("w1 and w2 exchanged", "one element of fc2", "ONNX graph", "8.1e+04", "noise_floors 5.0"):
        assert what in page
    assert self_test_page(tested) == page


def test_a_fault_that_was_not_caught_fails(tested: Comparison) -> None:
    tested["faults"][1] |= {"caught": False, "caught_by": None, "measured": None, "passed": False}
    page = self_test_page(tested)
    assert "FAILED: The checks caught 2 of 3 planted faults" in page
    assert '<td class="bad">NO</td>' in page


def test_a_fault_that_was_placed_wrongly_fails(tested: Comparison) -> None:
    tested["faults"][0]["passed"] = False
    assert not self_test_section(tested)["passed"]
    assert "yes, at the wrong stage" in self_test_page(tested)


def test_a_healthy_model_that_was_flagged_fails(tested: Comparison) -> None:
    tested["healthy"][0] |= {"flagged": ["onnx - transformers: nan > 1e-5"], "max_abs": None}
    page = self_test_page(tested)
    assert "FAILED: The checks caught 3 of 3 planted faults" in page
    assert "and flagged 1 of 2 healthy models." in page
    assert "nan &gt; 1e-5" in page
    assert math.isnan(self_test_section(tested)["worst"]["max_abs"])


def test_trying_nothing_is_no_proof(tested: Comparison) -> None:
    assert not self_test_section(tested | {"faults": []})["passed"]
    assert not self_test_section(tested | {"healthy": []})["passed"]


def test_a_fault_in_preprocessing_has_no_place_in_a_model(tested: Comparison) -> None:
    page = self_test_page(tested)
    assert "<td>ours - the publisher&#39;s transform, grey levels</td>" in page
    assert "None" not in page
