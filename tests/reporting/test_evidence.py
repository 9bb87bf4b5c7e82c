"""All gates in one place: what each finds, and that one is enough to fail a graph."""

from collections.abc import Callable
from typing import Any

import pytest

from vit2onnx.reporting.evidence import GATES, Judgement, judge_gates

Comparison = dict[str, Any]
Limits = dict[str, dict[str, dict[str, Any]]]
WithPublished = Callable[[Comparison, float], Comparison]


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
    with_published: WithPublished,
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


@pytest.mark.parametrize("subject", ["onnx", "onnx_unoptimized", "equinox", "onnx_float64", "equinox_float64"])
def test_every_implementation_is_held_against_the_truth(healthy: Comparison, limits: Limits, subject: str) -> None:
    for row in healthy["differences"]:
        if (row["subject"], row["other"]) == (subject, "truth"):
            row["floors"] = 304.0
    (fault,) = judge_gates(healthy, limits).faults["outputs"]
    assert fault.startswith(f"{subject} - truth, error of a token (root mean square) in noise floors")


def test_an_equinox_model_that_widens_the_noise_floor_fails(healthy: Comparison, limits: Limits) -> None:
    for row in healthy["rounding"]:
        if row["subject"] == "equinox":
            row["multiple"] = 12.0
    judged = judge_gates(healthy, limits)
    assert (
        "how many times as far the first rounds as the other, geometric mean over inputs: 1.20e+01 > 1.00e+01"
        in judged.faults["outputs"][0]
    )
    # Nothing is wrong with the graph.
    assert judged.diagnosis == ""


@pytest.mark.parametrize(
    ("subjects", "said"),
    [
        (("onnx",), "The graph fails only if onnxruntime optimises it, so onnxruntime is at fault."),
        (
            ("onnx", "onnx_unoptimized"),
            "In double precision the graph is right, so onnxruntime is at fault.",
        ),
        (("onnx_unoptimized",), "In double precision the graph is right, so onnxruntime is at fault."),
        (
            ("onnx", "onnx_unoptimized", "onnx_float64"),
            "The Equinox model is within the limits and its graph is not, so the export is at fault.",
        ),
        # So small that single precision hides it.
        (("onnx_float64",), "The Equinox model is within the limits and its graph is not, so the export is at fault."),
        (
            ("onnx", "onnx_float64", "equinox", "equinox_float64"),
            "The Equinox model is off too, so weights, model or reference are at fault.",
        ),
        (
            ("onnx_float64", "equinox_float64"),
            "The Equinox model is off too, so weights, model or reference are at fault.",
        ),
        (("equinox",), ""),
    ],
)
def test_precisions_tell_which_part_is_at_fault(
    off: Callable[..., Comparison],
    healthy: Comparison,
    stages: Comparison,
    limits: Limits,
    subjects: tuple[str, ...],
    said: str,
) -> None:
    assert judge_gates(off(healthy, *subjects), limits, stages=stages).diagnosis == said
    without = judge_gates(healthy, limits).diagnosis
    assert without == (f"{said} `make proof` names the first stage that is wrong." if said else "")


def test_a_graph_that_does_not_run_in_double_precision_clears_nobody(
    off: Callable[..., Comparison], healthy: Comparison, stages: Comparison, limits: Limits
) -> None:
    broken = off(healthy, "onnx", "onnx_unoptimized")
    broken["differences"] = [row for row in broken["differences"] if row["subject"] != "onnx_float64"]
    said = "The Equinox model is within the limits, so the export (or onnxruntime) is at fault."
    assert judge_gates(broken, limits, stages=stages).diagnosis == said
