"""The first divergence and what is judged of a ledger, on made-up rows."""

import math
from typing import Any

import pytest

from vit2onnx.parity.divergence import StageComparison
from vit2onnx.parity.verdict import faults_of
from vit2onnx.spec.subject import TRUTH

LIMITS = {"floors": 5.0, "floors_double": 100.0}
NAMES = ["transformers", "publisher", "equinox", "onnx"]
STAGES = ["patch_embed", "blocks.0.q", "blocks.0.output", "norm"]
Row = dict[str, Any]


def rows() -> list[Row]:
    """A healthy ledger, with every figure on its limit."""
    pairs = [(name, TRUTH, 5.0) for name in NAMES]
    pairs += [(b, a, 5.0) for i, b in enumerate(NAMES) for a in reversed(NAMES[:i])]
    pairs += [(f"{name}_float64", TRUTH, 100.0) for name in NAMES[1:3]]
    return [
        {
            "mode": mode,
            "stage": stage,
            "subject": subject,
            "other": other,
            "max_abs": 3.14e-3,
            "floors": floors,
        }
        for mode in ("accumulated", "injected")
        for stage in STAGES
        for subject, other, floors in pairs
    ]


def spoil(ledger: list[Row], figure: str, value: float | None, **where: str) -> None:
    found = [row for row in ledger if all(row[key] == value for key, value in where.items())]
    assert found
    for row in found:
        row[figure] = value


def comparison(ledger: list[Row]) -> StageComparison:
    return StageComparison("dinov3_tiny", "dynamic", "cat@48x112", NAMES, ledger)


def faults(ledger: list[Row]) -> list[str]:
    return faults_of(comparison(ledger).judge(LIMITS))


def test_what_is_on_the_limit_passes():
    findings = comparison(rows()).judge(LIMITS)
    assert [(finding.measured, finding.limit) for finding in findings] == [(100.0, 100.0), (5.0, 5.0)]
    assert all(finding.passed for finding in findings)


@pytest.mark.parametrize("value", [math.nextafter(5.0, math.inf), None, math.nan])
@pytest.mark.parametrize("mode", ["accumulated", "injected"])
def test_what_is_beyond_diverges(mode: str, value: float | None):
    ledger = rows()
    spoil(ledger, "floors", value, mode=mode, stage="blocks.0.q", subject="onnx", other="equinox")
    found = comparison(ledger).first_divergence(mode, 5.0)
    assert found is not None
    assert (found.mode, found.stage, found.subject, found.other) == (mode, "blocks.0.q", "onnx", "equinox")
    other = {"accumulated": "injected", "injected": "accumulated"}[mode]
    assert comparison(ledger).first_divergence(other, 5.0) is None
    # Drift that adds up is no fault.
    assert len(faults(ledger)) == (mode == "injected")


def test_the_sentence_says_where_who_and_how_far():
    ledger = rows()
    spoil(ledger, "floors", 400.4, stage="blocks.0.q", subject="equinox")
    assert faults(ledger) == ["first divergence: blocks.0.q, equinox and publisher, 3.1e-03, 400 x the noise floor"]
    spoil(ledger, "floors", None, stage="blocks.0.q", subject="equinox")
    assert faults(ledger) == ["first divergence: blocks.0.q, equinox and publisher, not finite"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("publisher", ("publisher", "transformers")),
        ("equinox", ("equinox", "publisher")),
        ("onnx", ("onnx", "equinox")),
        # All part from it, of which the publisher's code is the first.
        ("transformers", ("publisher", "transformers")),
    ],
)
def test_the_one_at_fault_is_named(wrong: str, named: tuple[str, str]):
    ledger = rows()
    for row in ledger:
        if row["stage"] == "blocks.0.output" and wrong in (row["subject"], row["other"]):
            row["floors"] = 9.0
    spoil(ledger, "floors", 99.0, stage="norm")
    found = comparison(ledger).first_divergence("injected", 5.0)
    assert found is not None
    assert (found.stage, found.subject, found.other, found.floors) == ("blocks.0.output", *named, 9.0)


def test_distance_from_the_truth_is_no_divergence():
    ledger = rows()
    spoil(ledger, "floors", 99.0, other=TRUTH)
    assert comparison(ledger).first_divergence("injected", 5.0) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [(math.nextafter(100.0, 101), "100 noise floors > 100"), (None, "not finite"), (math.nan, "not finite")],
)
def test_two_truths_that_differ_are_a_fault(value: float | None, told: str):
    ledger = rows()
    spoil(ledger, "floors", value, mode="injected", stage="blocks.0.q", subject="equinox_float64")
    assert faults(ledger) == [f"equinox_float64 - truth, first apart at blocks.0.q: {told}"]
    # What adds up is no fault.
    ledger = rows()
    spoil(ledger, "floors", value, mode="accumulated", subject="equinox_float64")
    assert faults(ledger) == []


@pytest.mark.parametrize("gone", NAMES)
def test_an_implementation_that_is_missing_is_a_fault(gone: str):
    ledger = [row for row in rows() if gone not in (row["subject"], row["other"])]
    assert faults(ledger) == [f"each layer by itself: {gone} was not compared"]


def test_nothing_compared_is_a_fault():
    accumulated = [row for row in rows() if row["mode"] == "accumulated"]
    for nothing in ([], accumulated):
        assert faults(nothing) == [
            "in double precision: there is no second implementation",
            "each layer by itself: nothing was compared",
        ]
