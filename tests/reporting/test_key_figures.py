"""The figures on top of the page: each in plain words, and none of them nicer than what was measured."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vit2onnx.parity.comparison import Comparison
from vit2onnx.parity.divergence import StageComparison
from vit2onnx.reporting.evidence import Evidence
from vit2onnx.reporting.key_figures import KeyFigure
from vit2onnx.reporting.parity_page import page_content

Plain = dict[str, Any]
Figures = Callable[..., list[KeyFigure]]


@pytest.fixture
def figures_of(evidence_of: Callable[..., Evidence]) -> Figures:
    """The figures on some comparisons, and on stages and a self-test if they are given."""

    def figures(*comparisons: Comparison, stages: StageComparison | None = None, **other: Any) -> list[KeyFigure]:
        of_stages = {stages.export: stages} if stages else {}
        return page_content(evidence_of(*comparisons, stages=of_stages, **other))["key_figures"]

    return figures


def told(figures: list[KeyFigure]) -> list[str]:
    return [f"{one.figure} {one.what}; {one.note}" for one in figures]


def test_healthy_graph_in_plain_words(
    healthy: Comparison, stages: StageComparison, tested: Plain, figures_of: Figures
) -> None:
    figures = figures_of(healthy, stages=stages, self_test=tested)
    assert told(figures) == [
        "1.5 floors largest error of a token in single precision (one floor is ordinary rounding); limit 10 floors;"
        " 3200 output numbers compared",
        "3.0e-15 largest difference between ONNX and original, both computed in double precision; 1.25 noise floors;"
        " limit 100 noise floors of double precision",
        "0.000005 largest difference between ONNX and original in single precision; output numbers are around 1; no"
        " limit: the largest of so many errors is a matter of chance",
        "99.95 % of first neighbours (images, regions, patches) stay the same; neighbours that changed places differ by"
        " 5.0e-08 of cosine; limit 1.0e-05",
        "99 % of pixel values equal those of the original; limit: at least 96 %; the largest difference is 1 of 255"
        " grey levels",
        "0 of 10 stages inside the network are wrong; at most 1.7 noise floors apart; limit 10",
        "3 of 3 faults planted on purpose were caught by these checks; 2 of 2 located; none of 2 healthy models"
        " flagged",
    ]
    assert all(one.good for one in figures)


def test_one_that_differs_is_not_lost(healthy: Comparison, prepared: list[Plain], figures_of: Figures) -> None:
    for row in healthy.semantics:
        row["neighbours"][0]["top_1"] = 1 - 1e-7
        row["neighbours"] = row["neighbours"][:1]
    *_, neighbours, preprocessing = figures_of(
        healthy, preprocessing=[row | {"differing_share": 1e-7} for row in prepared]
    )
    assert (neighbours.figure, preprocessing.figure) == ("99.99 %", "99.99 %")


def test_what_is_not_finite_is_unknown(not_finite: Comparison, figures_of: Figures) -> None:
    rounding, in_double, difference, *_ = figures_of(not_finite)
    assert [(one.figure, one.good) for one in (rounding, difference)] == [("unknown", False)] * 2
    # The graph itself was computed without trouble.
    assert in_double.good
    for row in not_finite.differences:
        if row["subject"] == "onnx_float64":
            row |= {"max_abs": None, "floors": None}
    _, in_double, *_ = figures_of(not_finite)
    assert (in_double.figure, in_double.good) == ("unknown", False)
    assert in_double.note == "limit 100 noise floors of double precision"


def test_each_precision_is_judged_by_its_own_limit(
    healthy: Comparison, beyond: Comparison, figures_of: Figures
) -> None:
    rounding, in_double, difference, *_ = figures_of(healthy, beyond)
    assert (rounding.figure, rounding.good) == ("3e+02 floors", False)
    assert in_double.good
    # As large as it is, this one has no limit.
    assert (difference.figure, difference.good) == ("0.001", True)
    for row in healthy.differences:
        if row["subject"] == "onnx_float64":
            row |= {"max_abs": 5e-11, "floors": 2e4}
    rounding, in_double, *_ = figures_of(healthy)
    assert rounding.good
    assert (in_double.figure, in_double.good) == ("5.0e-11", False)


def test_nothing_compared_is_unknown(healthy: Comparison, figures_of: Figures) -> None:
    figures = figures_of(replace(healthy, pairs=[], differences=[], semantics=[], error_maps=[]), preprocessing=[])
    assert [(one.figure, one.good) for one in figures] == [("unknown", False)] * 5


def test_the_first_stage_that_goes_wrong_is_named(
    healthy: Comparison, diverging: StageComparison, figures_of: Figures
) -> None:
    *_, stages = figures_of(healthy, stages=diverging)
    assert told([stages]) == [
        "blocks.1.mlp_raw is the first stage that is wrong; there ONNX and Equinox part; limit 10 noise floors"
    ]
    assert not stages.good


def test_other_faults_of_the_stages_are_not_hidden(
    healthy: Comparison, stages: StageComparison, figures_of: Figures
) -> None:
    for row in stages.stages:
        if row["subject"] == "equinox_float64":
            row["floors"] = 1e6
    *_, found = figures_of(healthy, stages=stages)
    assert (found.figure, found.good) == ("unknown", False)
    assert found.note.startswith("equinox_float64 - truth, first apart at patch_embed")
