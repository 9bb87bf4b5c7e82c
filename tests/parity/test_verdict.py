"""The verdict: a healthy comparison passes, and everything that can be wrong with one fails by name.

The comparison is made up, so that each number stands just on or just over the limit that config gives it; real
graphs with planted faults are in `test_comparison.py`.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vit2onnx.parity.verdict import LEGS, PUBLISHED, Verdict, judge

CONFIG = Path(__file__).parents[2] / "config" / "config.yaml"
LIMITS = {name: limit["limit"] for name, limit in yaml.safe_load(CONFIG.read_text())["parity"]["limits"].items()}
# The reference's own distance from float64; a power of two, so that multiples of it are exact.
OWN = 2.0**-19
RUNS = ("onnx", "onnx_unoptimized")
REFERENCES = ("transformers", "publisher")

Comparison = dict[str, Any]


def row(subject: str, other: str, max_abs: float | None, cosine: float | None = 1.0, **where: Any) -> dict[str, Any]:
    place = {"image": "cat", "height": 48, "width": 112, "batch": 1, "group": "cls", "token": 0, "channel": 7}
    figures = {"count": 100, "max_abs": max_abs, "rms": max_abs, "cosine": cosine, "scale": 1.0}
    return {"subject": subject, "other": other} | figures | place | where


def semantics(subject: str, other: str, share: float = 0.5) -> dict[str, Any]:
    """What people do with features, so far apart as a share of what the limits allow."""
    margin, angle = share * LIMITS["neighbour_margin"], share * LIMITS["subspace_angle"]
    return {
        **{"subject": subject, "other": other, "batch": 1, "finite": True},
        "neighbours": [{"what": what, "margin": margin} for what in ("cls", "patches")],
        "matches": {"margin": margin},
        "subspaces": [{"components": k, "degrees": 2 * angle, "gap": 0.5} for k in (3, 16)],
        "worst_token": None,
    }


def healthy() -> Comparison:
    """A comparison in which everything is right: two references, two runs of the graph, two groups of tokens."""
    pairs = [("equinox_float64", "truth", 1e-15), ("equinox", "truth", OWN), ("publisher_float64", "truth", 0.0)]
    for reference in REFERENCES:
        pairs += [(reference, "truth", OWN), ("equinox", reference, OWN)]
    for run in RUNS:
        pairs += [(run, "truth", OWN), (run, "equinox", OWN), *((run, reference, OWN) for reference in REFERENCES)]
    patches = {"group": "patches", "token": 9, "row": 1, "column": 2}
    return {
        "references": list(REFERENCES),
        "asked": {"cases": ["cat@48x112"], "batches": [1]},
        "checks": [{"name": "interface", "passed": True, "subject": "", "detail": "as promised"}],
        "differences": [
            row(subject, other, max_abs * factor, **where)
            for subject, other, max_abs in pairs
            for factor, where in ((1, {}), (0.5, patches))
        ],
        "known_differences": [],
        "semantics": [
            semantics("transformers", "truth", 0.1),
            *(semantics(run, reference) for run in RUNS for reference in REFERENCES),
        ],
    }


def rows(comparison: Comparison, subject: str, other: str) -> list[dict[str, Any]]:
    found = [row for row in comparison["differences"] if (row["subject"], row["other"]) == (subject, other)]
    assert found
    return found


def without(comparison: Comparison, subject: str, other: str) -> Comparison:
    """The comparison without one of its pairs."""
    gone = rows(comparison, subject, other)
    return comparison | {"differences": [row for row in comparison["differences"] if row not in gone]}


def test_a_healthy_comparison_passes():
    verdict = judge(healthy(), LIMITS)
    assert verdict.passed
    assert verdict.faults == []
    assert {finding.leg for finding in verdict.findings} == {"reference", "truth", "sanity"}


def test_one_reference_is_enough():
    comparison = healthy()
    comparison["references"] = ["transformers"]
    for key in ("differences", "semantics"):
        comparison[key] = [row for row in comparison[key] if "publisher" not in str(row)]
    assert judge(comparison, LIMITS).passed


OURS_AND_REFERENCE = [(run, reference) for run in (*RUNS, "equinox") for reference in REFERENCES]
# Which pairs each limit of the config is for.
PAIRS = {
    "max_abs": OURS_AND_REFERENCE,
    "cosine": OURS_AND_REFERENCE,
    "truth_ratio": [("onnx", "truth")],
    "truth_agreement": [(subject, "truth") for subject in ("equinox_float64", "publisher_float64")],
}
# What of a row each limit is held against, if not its largest difference.
FIGURES = {"cosine": "cosine", "truth_ratio": "rms"}
every_judged_figure = pytest.mark.parametrize(
    ("limit", "subject", "other"), [(limit, *pair) for limit, pairs in PAIRS.items() for pair in pairs]
)
either_group = pytest.mark.parametrize("index", [0, 1])


def test_every_limit_of_the_config_is_tried():
    # Those of published features, of semantics and of stages (in test_divergence.py) have tests of their own.
    assert PAIRS.keys() | {"golden", "neighbour_margin", "subspace_angle", "noise_floors", "rounding"} == LIMITS.keys()


def of_semantics(comparison: Comparison, subject: str, other: str) -> dict[str, Any]:
    (found,) = [row for row in comparison["semantics"] if (row["subject"], row["other"]) == (subject, other)]
    return found


every_judged_semantics = pytest.mark.parametrize(
    ("subject", "other"), [(run, reference) for run in RUNS for reference in REFERENCES]
)


@every_judged_semantics
@pytest.mark.parametrize("place", [0, 1, "matches"])
def test_a_swap_of_neighbours_passes_up_to_its_margin(subject: str, other: str, place: int | str):
    limit = LIMITS["neighbour_margin"]
    for margin, passed in ((limit, True), (float(np.nextafter(limit, 1)), False), (math.nan, False)):
        comparison = healthy()
        found = of_semantics(comparison, subject, other)
        (found["matches"] if place == "matches" else found["neighbours"][place])["margin"] = margin
        verdict = judge(comparison, LIMITS)
        assert verdict.passed == passed
        assert all(fault.startswith(f"{subject} - {other}, cosine by which a neighbour") for fault in verdict.faults)


@every_judged_semantics
@pytest.mark.parametrize("index", [0, 1])
def test_a_turn_of_the_components_passes_up_to_its_limit_by_the_gap(subject: str, other: str, index: int):
    limit = LIMITS["subspace_angle"]
    for degrees, gap, passed in (
        (limit, 1.0, True),
        (2 * limit, 1.0, False),
        (100 * limit, 0.01, True),
        (90.0, 0, True),
    ):
        comparison = healthy()
        of_semantics(comparison, subject, other)["subspaces"][index] |= {"degrees": degrees, "gap": gap}
        verdict = judge(comparison, LIMITS)
        assert verdict.passed == passed
        assert all("degrees between principal components" in fault for fault in verdict.faults)


@every_judged_semantics
def test_semantics_that_are_not_known_fail(subject: str, other: str):
    comparison = healthy()
    of_semantics(comparison, subject, other)["finite"] = False
    assert len(judge(comparison, LIMITS).faults) == 2
    comparison["semantics"].remove(of_semantics(comparison, subject, other))
    assert len(judge(comparison, LIMITS).faults) == 2


def test_one_photograph_of_one_patch_has_no_neighbours_and_passes():
    comparison = healthy()
    for found in comparison["semantics"]:
        found |= {"neighbours": [], "matches": None, "subspaces": []}
    assert judge(comparison, LIMITS).passed


@every_judged_figure
@either_group
def test_a_limit_lets_itself_pass_and_nothing_beyond(limit: str, subject: str, other: str, index: int):
    figure = FIGURES.get(limit, "max_abs")
    on_limit = LIMITS[limit] * (OWN if limit == "truth_ratio" else 1)
    beyond = float(np.nextafter(on_limit, 0 if limit == "cosine" else math.inf))
    comparison = healthy()
    pair = rows(comparison, subject, other)
    if limit == "truth_ratio":
        # It is of all rows together, so the other stands for no element here.
        pair[1 - index]["count"] = 0
        for row in rows(comparison, "transformers", "truth"):
            row["rms"] = OWN
    pair[index][figure] = on_limit
    assert judge(comparison, LIMITS).passed
    pair[index][figure] = beyond
    verdict = judge(comparison, LIMITS)
    assert not verdict.passed
    (fault,) = verdict.faults
    assert fault.startswith((f"{subject} - {other}, ", f"{subject} - transformers, distance from float64"))


@every_judged_figure
@either_group
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_fails(limit: str, subject: str, other: str, index: int, value: float | None):
    comparison = healthy()
    rows(comparison, subject, other)[index][FIGURES.get(limit, "max_abs")] = value
    assert not judge(comparison, LIMITS).passed


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 0.0])
def test_a_reference_whose_own_error_is_no_measure_fails(value: float | None):
    # Zero, too: then what is called single precision was computed in double.
    comparison = healthy()
    for found in rows(comparison, "transformers", "truth"):
        found["rms"] = value
    verdict = judge(comparison, LIMITS)
    assert not verdict.passed
    assert any("as a multiple of the latter's" in fault for fault in verdict.faults)


@pytest.mark.parametrize(
    ("subject", "other"),
    [
        *OURS_AND_REFERENCE,
        ("onnx", "truth"),
        ("transformers", "truth"),
        ("equinox_float64", "truth"),
        ("publisher_float64", "truth"),
    ],
)
def test_a_pair_that_was_not_compared_fails(subject: str, other: str):
    verdict = judge(without(healthy(), subject, other), LIMITS)
    assert not verdict.passed
    assert any(subject in fault for fault in verdict.faults)


@pytest.mark.parametrize("leg", LEGS)
def test_a_missing_leg_fails_by_name(leg: str):
    findings = judge(healthy(), LIMITS).findings
    verdict = Verdict(tuple(finding for finding in findings if finding.leg != leg))
    assert not verdict.passed
    assert verdict.faults == [f"nothing was found on the {leg} leg"]


@pytest.mark.parametrize(("key", "leg"), [("references", "reference"), ("checks", "sanity")])
def test_a_comparison_without_references_or_checks_fails(key: str, leg: str):
    verdict = judge(healthy() | {key: []}, LIMITS)
    assert not verdict.passed
    assert f"nothing was found on the {leg} leg" in verdict.faults


def test_comparing_nothing_fails():
    verdict = judge(
        healthy() | {"references": ["transformers"], "differences": [], "semantics": [], "checks": []},
        LIMITS,
    )
    assert not verdict.passed
    assert not any(finding.passed for finding in verdict.findings)


def test_a_failed_check_fails_with_its_detail():
    comparison = healthy()
    comparison["checks"].append(
        {"name": "finite", "passed": False, "subject": "", "detail": "NaN or infinity in an output"}
    )
    verdict = judge(comparison, LIMITS)
    assert not verdict.passed
    assert verdict.faults == ["finite: NaN or infinity in an output"]


def test_a_fault_says_where_the_worst_element_is():
    comparison = healthy()
    rows(comparison, "onnx", "transformers")[1] |= {"max_abs": 0.5, "image": "dog", "batch": 3}
    (fault,) = judge(comparison, LIMITS).faults
    assert "worst at dog 48x112, batch 3, patch 1,2" in fault
    assert "5.00e-01 > 1.00e-05" in fault
    rows(comparison, "onnx", "transformers")[0]["max_abs"] = None
    (fault,) = judge(comparison, LIMITS).faults
    assert "worst at cat 48x112, batch 1, cls 0" in fault


def test_faults_of_several_limits_are_all_told():
    comparison = healthy()
    rows(comparison, "onnx", "transformers")[0] |= {"max_abs": 0.5, "cosine": 0.5}
    rows(comparison, "equinox_float64", "truth")[0]["max_abs"] = 0.5
    assert len(judge(comparison, LIMITS).faults) == 3


def test_a_comparison_that_was_written_and_read_is_judged_the_same():
    comparison = healthy()
    rows(comparison, "onnx", "transformers")[0]["max_abs"] = None
    assert str(judge(json.loads(json.dumps(comparison)), LIMITS)) == str(judge(comparison, LIMITS))


def test_the_limit_grows_with_the_scale_of_the_features():
    comparison = healthy()
    (worst, _) = rows(comparison, "onnx", "transformers")
    worst |= {"max_abs": 2.5e-5, "scale": 5.0}
    (fault,) = judge(comparison, LIMITS).faults
    assert "2.50e-05 > 1.00e-05" in fault  # the scale of other rows is one
    for one in comparison["differences"]:
        one["scale"] = max(one["scale"], 3.0)
    assert judge(comparison, LIMITS).passed
    worst["max_abs"] = 3.1e-5
    assert "3.10e-05 > 3.00e-05" in judge(comparison, LIMITS).faults[0]


def amplified(own: float) -> Comparison:
    """A comparison on weights with which rounding takes all but the second reference far from float64."""
    comparison = healthy()
    for subject in ("transformers", "equinox", "onnx"):
        for one in rows(comparison, subject, "truth"):
            one |= {"max_abs": own, "rms": own}
    return comparison


@pytest.mark.parametrize(
    ("pair", "limit"),
    [("differences", "max_abs"), ("semantics", "neighbour_margin"), ("semantics", "subspace_angle")],
)
def test_limits_grow_with_the_rounding_of_the_reference(pair: str, limit: str):
    own = 1e-4
    factor = 2 * own / LIMITS["rounding"] - 1
    assert factor == pytest.approx(49)
    for reference, grown in (("transformers", factor), ("publisher", 1)):
        for share, passes in ((0.99, True), (1.01, False)):
            comparison = amplified(own)
            measured = share * grown * LIMITS[limit]
            (row, *_) = [one for one in comparison[pair] if (one["subject"], one["other"]) == ("onnx", reference)]
            row |= {
                "max_abs": {"max_abs": measured},
                "neighbour_margin": {"matches": {"margin": measured}},
                "subspace_angle": {"subspaces": [{"components": 3, "degrees": measured, "gap": 1.0}]},
            }[limit]
            verdict = judge(comparison, LIMITS)
            assert [one.limit_name for one in verdict.findings if not one.passed] == ([] if passes else [limit])


def with_a_flat_photograph(own: float) -> Comparison:
    """A comparison of one photograph more, which rounding moves by so much in all implementations."""
    comparison = healthy()
    comparison["asked"]["cases"].append("white@48x112")
    flat = [row | {"image": "white"} for row in comparison["differences"]]
    single = [row for row in flat if not row["subject"].endswith("_float64")]
    for row in single:
        row |= {"max_abs": own, "rms": own}
    comparison["differences"] += flat
    return comparison


def test_one_photograph_that_amplifies_rounding_loosens_no_limit_for_others():
    comparison = with_a_flat_photograph(1e-4)
    assert judge(comparison, LIMITS).passed
    for row in rows(comparison, "onnx", "transformers"):
        row["max_abs"] *= 0.9 * 25 if row["image"] == "cat" else 1
    (fault,) = judge(comparison, LIMITS).faults
    assert "(worst at cat 48x112, batch 1, cls 0): 4.29e-05 > 1.00e-05" in fault


def test_one_photograph_that_amplifies_rounding_hides_no_distance_of_others():
    comparison = with_a_flat_photograph(1e-4)
    for row in rows(comparison, "onnx", "truth"):
        row["rms"] *= 3 if row["image"] == "cat" else 1
    (fault,) = judge(comparison, LIMITS).faults
    # Two inputs, of which one is three times as far.
    assert "as a multiple of the latter's: 2.24e+00 > 1.50e+00" in fault


def test_flat_photographs_may_turn_components_as_the_reference_turns_them():
    comparison = healthy()
    for row in comparison["semantics"]:
        for angle in row["subspaces"]:
            angle["degrees"] *= 4
    assert {one.limit_name for one in judge(comparison, LIMITS).findings if not one.passed} == {"subspace_angle"}
    for angle in comparison["semantics"][0]["subspaces"]:
        angle["degrees"] *= 5
    # The first reference's own, which tells nothing of the second.
    (one, *_) = [one for one in judge(comparison, LIMITS).findings if not one.passed]
    assert (one.limit_name, one.other) == ("subspace_angle", "publisher")


@pytest.mark.parametrize("subject", ["transformers", "equinox"])
@pytest.mark.parametrize("distance", [None, OWN])
def test_limits_do_not_grow_where_not_both_round_further(subject: str, distance: float | None):
    comparison = amplified(1e-4)
    for one in rows(comparison, subject, "truth"):
        one["max_abs"] = distance
    rows(comparison, "onnx", "transformers")[0]["max_abs"] = 1.1e-5
    assert "1.10e-05 > 1.00e-05" in judge(comparison, LIMITS).faults[0]


def test_rounding_of_the_reference_excuses_no_graph_that_rounds_further():
    comparison = amplified(1e-4)
    for one in rows(comparison, "onnx", "truth"):
        one["rms"] *= 1.01 * LIMITS["truth_ratio"]
    (fault,) = judge(comparison, LIMITS).faults
    assert "float64" in fault


def test_the_limit_does_not_shrink_with_the_scale_of_the_features():
    comparison = healthy()
    for row in rows(comparison, "onnx", "transformers"):
        row["scale"] = 0.01
    assert judge(comparison, LIMITS).passed


def test_what_a_known_difference_leaves_unexplained_is_judged():
    known = {"reference": "transformers", "max_abs": 0.25, "expected": 0.25, "unexplained": 9e-6, "scale": 1.0}
    known |= {"image": "cat", "height": 48, "width": 112}
    comparison = healthy() | {"known_differences": [known]}
    assert judge(comparison, LIMITS).passed
    for unexplained in (1.1e-5, None):
        comparison = healthy() | {"known_differences": [known | {"unexplained": unexplained}]}
        (fault,) = judge(comparison, LIMITS).faults
        assert "that RoPE periods of its own" in fault
        assert "do not explain; of 2.5e-01 they explain 2.5e-01: " in fault


def test_published_features_are_judged_where_they_were_compared():
    comparison = healthy()
    comparison["differences"].append(row("equinox", "published", 1.9e-3))
    assert judge(comparison, LIMITS).passed
    comparison["differences"].append(row("onnx", "published", 2.1e-3))
    verdict = judge(comparison, LIMITS)
    assert {finding.leg for finding in verdict.findings} == {*LEGS, PUBLISHED}
    (fault,) = verdict.faults
    assert fault == "onnx, max |difference| from the published features: 2.10e-03 > 2.00e-03"
