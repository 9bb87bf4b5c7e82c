"""All gates in one place: what each finds, and that one is enough to fail a graph."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.dense_comparison import DenseComparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.packing import PackingComparison
from vit2onnx.parity.verdict import Verdict
from vit2onnx.reporting.evidence import GATES

Plain = dict[str, Any]
Judged = Callable[..., Verdict]
WithPublished = Callable[[Comparison, float], Comparison]


def test_what_was_not_asked_for_has_no_faults(healthy: Comparison, judged: Judged) -> None:
    assert judged(healthy).faults == []


def test_what_was_measured_and_is_empty_fails(healthy: Comparison, judged: Judged) -> None:
    nothing = StageComparison("dinov3_tiny", "dynamic", "cat@48x112", [], [])
    assert list(judged(healthy, stages=nothing, preprocessing=[]).faults_by_gate()) == ["stages", "preprocessing"]


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_fails_a_graph_alone(
    healthy: Comparison,
    beyond: Comparison,
    stages: StageComparison,
    diverging: StageComparison,
    prepared: list[Plain],
    tested: Plain,
    packing: PackingComparison,
    dense: DenseComparison,
    with_published: WithPublished,
    judged: Judged,
    gate: str,
) -> None:
    comparison = with_published(healthy, 1e-3)
    measured: dict[str, Any] = {"stages": stages, "preprocessing": prepared, "self_test": tested}
    measured |= {"packing": packing, "dense": dense}

    def of_all_gates(comparison: Comparison = comparison, **other: Any) -> Verdict:
        return judged(comparison, **measured | other)

    assert of_all_gates().passed
    found = {
        "outputs": lambda: of_all_gates(beyond),
        "published": lambda: of_all_gates(with_published(healthy, 0.5)),
        "packing": lambda: of_all_gates(packing=replace(packing, refusals=[])),
        "dense": lambda: of_all_gates(dense=replace(dense, rows=dense.rows[:-1])),
        "stages": lambda: of_all_gates(stages=diverging),
        "preprocessing": lambda: of_all_gates(preprocessing=[row | {"differing_share": 0.5} for row in prepared]),
        "self_test": lambda: of_all_gates(self_test=tested | {"healthy": []}),
    }[gate]()
    assert not found.passed
    assert list(found.faults_by_gate()) == [gate]


@pytest.mark.parametrize("subject", ["onnx", "onnx_unoptimized", "equinox", "onnx_float64", "equinox_float64"])
def test_every_implementation_is_held_against_the_truth(healthy: Comparison, judged: Judged, subject: str) -> None:
    for row in healthy.differences:
        if (row["subject"], row["other"]) == (subject, "truth"):
            row["floors"] = 304.0
    (fault,) = judged(healthy).faults_by_gate()["outputs"]
    assert fault.startswith(f"{subject} - truth, error of a token (root mean square) in noise floors")


def test_an_equinox_model_that_widens_the_noise_floor_fails(healthy: Comparison, judged: Judged) -> None:
    for row in healthy.rounding:
        if row["subject"] == "equinox":
            row["multiple"] = 12.0
    (fault,) = judged(healthy).faults
    assert "how many times as far the first rounds as the other, geometric mean over inputs: 1.20e+01 > 1.0" in fault
    # Nothing is wrong with the graph.
    assert judged(healthy).diagnosis == ""


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
    stages: StageComparison,
    judged: Judged,
    subjects: tuple[str, ...],
    said: str,
) -> None:
    assert judged(off(healthy, *subjects), stages=stages).diagnosis == said
    without = judged(healthy).diagnosis
    assert without == (f"{said} `make proof` names the first stage that is wrong." if said else "")


def test_a_graph_that_does_not_run_in_double_precision_clears_nobody(
    off: Callable[..., Comparison], healthy: Comparison, stages: StageComparison, judged: Judged
) -> None:
    broken = off(healthy, "onnx", "onnx_unoptimized")
    broken = replace(broken, differences=[row for row in broken.differences if row["subject"] != "onnx_float64"])
    said = "The Equinox model is within the limits, so the export (or onnxruntime) is at fault."
    assert judged(broken, stages=stages).diagnosis == said
