"""All gates in one place: what each finds, and that one is enough to fail a graph."""

from typing import Any

import pytest

from vit2onnx.reporting.evidence import GATES, Judgement, judge_gates

Comparison = dict[str, Any]
Limits = dict[str, dict[str, dict[str, Any]]]


def with_published(comparison: Comparison, max_abs: float) -> Comparison:
    """The comparison with features that the publisher published."""
    row = next(row for row in comparison["differences"] if row["other"] == "transformers")
    published = row | {"subject": "equinox", "other": "published", "max_abs": max_abs}
    return comparison | {"differences": [*comparison["differences"], published]}


def test_what_was_not_measured_has_no_faults(healthy: Comparison, limits: Limits) -> None:
    assert judge_gates(healthy, limits).faults == {}


def test_what_was_measured_and_is_empty_fails(healthy: Comparison, limits: Limits) -> None:
    nothing = judge_gates(healthy, limits, stages={"implementations": [], "stages": []}, preprocessing=[])
    assert list(nothing.faults) == ["stages", "preprocessing"]


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_fails_a_graph_alone(
    healthy: Comparison,
    beyond: Comparison,
    stages: Comparison,
    diverging: Comparison,
    prepared: list[Comparison],
    tested: Comparison,
    limits: Limits,
    gate: str,
) -> None:
    comparison = with_published(healthy, 1e-3)
    measured: dict[str, Any] = {"stages": stages, "preprocessing": prepared, "self_test": tested}

    def judged(comparison: Comparison = comparison, **other: Any) -> Judgement:
        return judge_gates(comparison, limits, **measured | other)

    assert judged().passed
    found = {
        "outputs": lambda: judged(beyond),
        "published": lambda: judged(with_published(healthy, 0.5)),
        "stages": lambda: judged(stages=diverging),
        "preprocessing": lambda: judged(preprocessing=[row | {"differing_share": 0.5} for row in prepared]),
        "self_test": lambda: judged(self_test=tested | {"healthy": []}),
    }[gate]()
    assert not found.passed
    assert {name: len(faults) >= 1 for name, faults in found.faults.items()} == {gate: True}


def test_what_rounding_may_explain_is_blamed_on_nobody(healthy: Comparison, stages: Comparison, limits: Limits) -> None:
    for row in healthy["differences"]:
        if not row["subject"].endswith("_float64"):
            row |= {"max_abs": 1e-4, "rms": 1e-4}
    without = judge_gates(healthy, limits)
    assert list(without.faults) == ["outputs"]
    assert without.diagnosis.startswith("Rounding may explain this: ")
    assert "a right file may be 2.5e-04 from the original" in without.diagnosis
    assert without.diagnosis.endswith(
        "`make proof` shows whether each layer by itself is right; if it is, the limits grow."
    )
    # They have grown, so that everything passes, unless a limit is tighter than anything can be.
    assert judge_gates(healthy, limits, stages=stages).passed
    limits["limits"]["max_abs"] = limits["limits"]["max_abs"] | {"limit": 1e-8}
    tight = judge_gates(healthy, limits, stages=stages)
    assert tight.diagnosis.endswith("No file can keep a limit that is tighter; loosen it.")


def test_what_is_further_than_rounding_is_not_explained_by_it(healthy: Comparison, limits: Limits) -> None:
    for row in healthy["differences"]:
        if row["subject"] in ("onnx", "onnx_unoptimized", "equinox") and row["other"] == "transformers":
            row["max_abs"] = 3e-4
    assert judge_gates(healthy, limits).diagnosis.startswith("The Equinox model is off too")
