"""The verdict: a healthy comparison passes, and everything that can be wrong with one fails by name.

The comparison is made up, so that each number stands just on or just over the limit that config gives it; real
graphs with planted faults are in `test_outputs.py`.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.limits import BY_PRECISION, LIMITS, OF_MAPS, OF_PAIRS, PREPARED, judge
from vit2onnx.files import write_json
from vit2onnx.parity.comparison import Comparison, pairs_of, place_of, worst_place
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.verdict import LEGS, Verdict, judge_graph
from vit2onnx.spec.subject import PUBLISHED

RUNS = ("onnx", "onnx_unoptimized")
REFERENCES = ("transformers", "publisher")
DOUBLES = ("equinox_float64", "publisher_float64", "onnx_float64")


def row(subject: str, other: str, **where: Any) -> dict[str, Any]:
    """One row of a healthy comparison; against the truth, with an error of one noise floor."""
    place = {"image": "cat", "height": 48, "width": 112, "batch": 1, "group": "cls", "token": 0, "channel": 7}
    figures = {"count": 100, "max_abs": 1e-6, "rms": 1e-7, "cosine": 1.0, "scale": 1.0}
    floors = {"floors": 1.0, "floors_token": 0} if other == "truth" else {}
    return {"subject": subject, "other": other} | figures | place | floors | where


def semantics(subject: str, share: float = 0.5) -> dict[str, Any]:
    """What people do with features, so far from the truth as a share of what the limits allow."""
    margin, angle = share * LIMITS["neighbour_margin"], share * LIMITS["subspace_angle"]
    return {
        **{"subject": subject, "other": "truth", "batch": 1, "finite": True},
        "neighbours": [{"what": what, "margin": margin} for what in ("cls", "patches")],
        "matches": {"margin": margin},
        "subspaces": [{"components": k, "degrees": 2 * angle, "gap": 0.5} for k in (3, 16)],
        "worst_token": None,
    }


def healthy() -> Comparison:
    """A comparison in which everything is right: two references, two runs of the graph, two groups of tokens."""
    pairs = pairs_of(REFERENCES, batches=[1], batch_in_double=1)
    patches = {"group": "patches", "columns": 7, "token": 3, "channel": 5}
    return Comparison(
        variant="dinov3_tiny",
        export="dynamic",
        graph_sha256="0123abcd",
        runtime={},
        references=list(REFERENCES),
        cases=["cat@48x112"],
        pairs=[asdict(pair) for pair in pairs],
        checks=[{"name": "interface", "passed": True, "subject": "", "detail": "as promised"}],
        rounding=[
            {"subject": name, "image": "cat", "height": 48, "width": 112, "rms": 1e-7, "multiple": 1.0}
            for name in (*REFERENCES, "equinox")
        ],
        differences=[
            row(pair.subject, pair.other, **where, **({"floors_token": 9} if where and pair.other == "truth" else {}))
            for pair in pairs
            for where in ({}, patches)
        ],
        distributions=[],
        semantics=[semantics(name, 0.1) for name in REFERENCES] + [semantics(run) for run in RUNS],
        known_differences=[],
        error_maps=[],
    )


def rows(comparison: Comparison, subject: str, other: str) -> list[dict[str, Any]]:
    found = comparison.rows(subject, other)
    assert found
    return found


def without(comparison: Comparison, subject: str, other: str) -> Comparison:
    """The comparison without one of its pairs."""
    gone = rows(comparison, subject, other)
    return replace(comparison, differences=[row for row in comparison.differences if row not in gone])


def test_a_healthy_comparison_passes():
    verdict = judge(healthy(), LIMITS)
    assert verdict.passed
    assert verdict.faults == []
    assert {finding.leg for finding in verdict.findings} == {"reference", "truth", "sanity"}


def test_one_reference_is_enough():
    comparison, lists = healthy(), ("references", "pairs", "differences", "rounding", "semantics")
    fewer = {key: [x for x in getattr(comparison, key) if "publisher" not in str(x)] for key in lists}
    assert judge(replace(comparison, **fewer), LIMITS).passed


OURS_AND_REFERENCE = [(run, reference) for run in (*RUNS, "equinox") for reference in REFERENCES]
# Which pairs each limit of the config is for, and what of a row is held against it.
PAIRS = {
    "cosine": OURS_AND_REFERENCE,
    "floors": [(subject, "truth") for subject in (*RUNS, "equinox")],
    "floors_double": [(subject, "truth") for subject in DOUBLES],
}
FIGURES = {"cosine": "cosine", "floors": "floors", "floors_double": "floors"}
every_judged_figure = pytest.mark.parametrize(
    ("limit", "subject", "other"), [(limit, *pair) for limit, pairs in PAIRS.items() for pair in pairs]
)
either_group = pytest.mark.parametrize("index", [0, 1])


def test_every_limit_of_the_config_is_tried():
    # Those of published features, of semantics, of the Equinox model's rounding, of images with texts and of dense maps
    # have tests of their own.
    own = {"golden", "neighbour_margin", "subspace_angle", "rounding_ratio"} | OF_PAIRS | OF_MAPS
    assert PAIRS.keys() | own == LIMITS.keys()


def test_the_findings_are_of_these_pairs():
    found = {limit: [] for limit in PAIRS}
    for one in judge(healthy(), LIMITS).findings:
        if one.limit_name in found:
            found[one.limit_name].append((one.subject, one.other))
    assert {limit: sorted(pairs) for limit, pairs in found.items()} == {
        limit: sorted(pairs) for limit, pairs in PAIRS.items()
    }


def of_semantics(comparison: Comparison, run: str) -> dict[str, Any]:
    (found,) = [row for row in comparison.semantics if row["subject"] == run]
    return found


either_run = pytest.mark.parametrize("run", RUNS)


@either_run
@pytest.mark.parametrize("place", [0, 1, "matches"])
def test_a_swap_of_neighbours_passes_up_to_its_margin(run: str, place: int | str):
    limit = LIMITS["neighbour_margin"]
    for margin, passed in ((limit, True), (float(np.nextafter(limit, 1)), False), (math.nan, False)):
        comparison = healthy()
        found = of_semantics(comparison, run)
        (found["matches"] if place == "matches" else found["neighbours"][place])["margin"] = margin
        verdict = judge(comparison, LIMITS)
        assert verdict.passed == passed
        assert all(fault.startswith(f"{run} - truth, cosine gap of neighbours") for fault in verdict.faults)


@either_run
@pytest.mark.parametrize("index", [0, 1])
def test_a_turn_of_the_components_passes_up_to_its_limit_by_the_gap(run: str, index: int):
    limit = LIMITS["subspace_angle"]
    for degrees, gap, passed in (
        (limit, 1.0, True),
        (2 * limit, 1.0, False),
        (100 * limit, 0.01, True),
        (90.0, 0, True),
    ):
        comparison = healthy()
        of_semantics(comparison, run)["subspaces"][index] |= {"degrees": degrees, "gap": gap}
        verdict = judge(comparison, LIMITS)
        assert verdict.passed == passed
        assert all("degrees between principal components" in fault for fault in verdict.faults)


@either_run
def test_semantics_that_are_not_known_fail(run: str):
    comparison = healthy()
    of_semantics(comparison, run)["finite"] = False
    assert len(judge(comparison, LIMITS).faults) == 2
    comparison.semantics.remove(of_semantics(comparison, run))
    assert len(judge(comparison, LIMITS).faults) == 2


def test_one_photograph_of_one_patch_has_no_neighbours_and_passes():
    comparison = healthy()
    for found in comparison.semantics:
        found |= {"neighbours": [], "matches": None, "subspaces": []}
    assert judge(comparison, LIMITS).passed


def test_semantics_of_references_are_not_judged():
    """They are there to hold the graph's against, and are what single precision does."""
    comparison = healthy()
    of_semantics(comparison, "transformers")["matches"]["margin"] = 1.0
    assert judge(comparison, LIMITS).passed


@every_judged_figure
@either_group
def test_a_limit_lets_itself_pass_and_nothing_beyond(limit: str, subject: str, other: str, index: int):
    figure = FIGURES[limit]
    beyond = float(np.nextafter(LIMITS[limit], 0 if limit == "cosine" else math.inf))
    comparison = healthy()
    pair = rows(comparison, subject, other)
    pair[index][figure] = LIMITS[limit]
    assert judge(comparison, LIMITS).passed
    pair[index][figure] = beyond
    verdict = judge(comparison, LIMITS)
    assert not verdict.passed
    (fault,) = verdict.faults
    assert fault.startswith(f"{subject} - {other}, ")
    assert [one.limit_name for one in verdict.findings if not one.passed] == [limit]


@every_judged_figure
@either_group
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_fails(limit: str, subject: str, other: str, index: int, value: float | None):
    comparison = healthy()
    rows(comparison, subject, other)[index][FIGURES[limit]] = value
    (fault,) = judge(comparison, LIMITS).faults
    assert fault.startswith(f"{subject} - {other}, ")
    assert "not finite" in fault


@every_judged_figure
@either_group
def test_the_figure_of_every_row_is_asked_for(limit: str, subject: str, other: str, index: int):
    comparison = healthy()
    del rows(comparison, subject, other)[index][FIGURES[limit]]
    with pytest.raises(KeyError):
        judge(comparison, LIMITS)


@pytest.mark.parametrize("run", RUNS)
def test_a_graph_three_times_beyond_the_limit_fails_however_small_the_error_is(run: str):
    comparison = healthy()
    for one in rows(comparison, run, "truth"):
        one |= {"floors": 3 * LIMITS["floors"], "max_abs": 1e-9}
    (fault,) = judge(comparison, LIMITS).faults
    assert fault.startswith(f"{run} - truth, error of a token (root mean square) in noise floors (worst at cat")
    assert fault.endswith("3.00e+01 > 1.00e+01")


def test_the_largest_of_many_errors_is_not_judged():
    """That is a matter of chance, and of the features' scale."""
    comparison = healthy()
    for one in comparison.differences:
        one |= {"max_abs": 1.0, "scale": 1e-3}
    assert judge(comparison, LIMITS).passed


@pytest.mark.parametrize(
    ("multiple", "passes"),
    [
        (0.99 * LIMITS["rounding_ratio"] ** 2, True),
        (1.01 * LIMITS["rounding_ratio"] ** 2, False),
        # It is the reference that rounds further.
        (1.01 / LIMITS["rounding_ratio"] ** 2, True),
        (0.99 / LIMITS["rounding_ratio"] ** 2, False),
        (0.0, False),
        (None, False),
        (math.nan, False),
    ],
)
def test_an_equinox_model_that_rounds_much_further_than_the_reference_fails(multiple: float | None, passes: bool):
    """Or it would raise the floors by which the graph is judged. On the other input it rounds like the reference."""
    comparison = healthy()
    comparison.cases.append("dog@48x112")
    for rows_of_input in (comparison.rounding, comparison.differences):
        rows_of_input += [one | {"image": "dog"} for one in rows_of_input]
    # The last of all is the Equinox model's.
    comparison.rounding[-1]["multiple"] = multiple
    verdict = judge(comparison, LIMITS)
    assert verdict.passed == passes
    assert [one.limit_name for one in verdict.findings if not one.passed] == ([] if passes else ["rounding_ratio"])
    assert all(fault.startswith("equinox - transformers, how many times as far the ") for fault in verdict.faults)


def test_a_second_reference_may_round_further():
    comparison = healthy()
    comparison.rounding[1]["multiple"] = 1000.0
    assert judge(comparison, LIMITS).passed


@pytest.mark.parametrize("key", ["rounding", "semantics"])
def test_what_was_not_measured_fails(key: str):
    assert not judge(replace(healthy(), **{key: []}), LIMITS).passed


@pytest.mark.parametrize(
    ("subject", "other"),
    [*OURS_AND_REFERENCE, *((subject, "truth") for subject in (*RUNS, *DOUBLES, *REFERENCES, "equinox"))],
)
def test_a_pair_that_was_not_compared_fails(subject: str, other: str):
    verdict = judge(without(healthy(), subject, other), LIMITS)
    assert not verdict.passed
    assert any(subject in fault for fault in verdict.faults)
    # Of one input of two as well.
    comparison = healthy()
    comparison.cases.append("dog@48x112")
    of_other_pairs = [one for one in comparison.differences if (one["subject"], one["other"]) != (subject, other)]
    comparison.differences.extend(one | {"image": "dog"} for one in of_other_pairs)
    (fault,) = judge(comparison, LIMITS).faults
    assert fault == f"everything was compared: not {subject} - {other}, batch 1, dog@48x112"


@pytest.mark.parametrize("leg", LEGS)
def test_a_missing_leg_fails_by_name(leg: str):
    findings = judge(healthy(), LIMITS).findings
    verdict = Verdict(tuple(finding for finding in findings if finding.leg != leg))
    assert not verdict.passed
    assert verdict.faults == [f"nothing was found on the {leg} leg"]


@pytest.mark.parametrize(("key", "leg"), [("pairs", "reference"), ("checks", "sanity")])
def test_a_comparison_without_references_or_checks_fails(key: str, leg: str):
    verdict = judge(replace(healthy(), **{key: []}), LIMITS)
    assert not verdict.passed
    assert f"nothing was found on the {leg} leg" in verdict.faults


def test_comparing_nothing_fails():
    verdict = judge(
        replace(healthy(), differences=[], rounding=[], semantics=[], checks=[]),
        LIMITS,
    )
    assert not verdict.passed
    assert not any(finding.passed for finding in verdict.findings)


def test_a_failed_check_fails_with_its_detail():
    comparison = healthy()
    comparison.checks.append(
        {"name": "finite", "passed": False, "subject": "", "detail": "NaN or infinity in an output"}
    )
    verdict = judge(comparison, LIMITS)
    assert not verdict.passed
    assert verdict.faults == ["finite: NaN or infinity in an output"]


def test_a_fault_says_where_the_worst_token_is():
    comparison = healthy()
    rows(comparison, "onnx", "truth")[1] |= {"floors": 50.0, "image": "dog", "batch": 3, "group": "patches"}
    faults = judge(comparison, LIMITS).faults
    # Not at the largest element, which is in another token of the row.
    assert "(worst at dog 48x112, batch 3, patch 1,2): 5.00e+01 > 1.00e+01" in faults[0]
    rows(comparison, "onnx", "truth")[0] |= {"floors": None, "group": "registers", "floors_token": 2}
    faults = judge(comparison, LIMITS).faults
    assert "(worst at cat 48x112, batch 1, registers 2): not finite" in faults[0]


def test_a_row_has_two_places():
    comparison = healthy()
    patches = rows(comparison, "onnx", "truth")[1]
    assert place_of(patches) == "cat 48x112, batch 1, patch 0,3"
    assert place_of(patches, "floors") == worst_place([patches], "floors") == "cat 48x112, batch 1, patch 1,2"
    patches |= {"columns": 4, "token": 11, "floors_token": 4}
    assert place_of(patches).endswith("patch 2,3")
    assert place_of(patches, "floors").endswith("patch 1,0")
    assert worst_place([]) == ""


def test_faults_of_several_limits_are_all_told():
    comparison = healthy()
    rows(comparison, "onnx", "transformers")[0]["cosine"] = 0.5
    rows(comparison, "onnx", "truth")[0]["floors"] = 50.0
    rows(comparison, "equinox_float64", "truth")[0]["floors"] = 1e4
    found = [one.limit_name for one in judge(comparison, LIMITS).findings if not one.passed]
    assert sorted(found) == ["cosine", "floors", "floors_double"]


def test_a_comparison_that_was_written_and_read_is_judged_the_same():
    comparison = healthy()
    rows(comparison, "onnx", "truth")[0]["floors"] = None
    assert str(judge(Comparison(**json.loads(json.dumps(asdict(comparison)))), LIMITS)) == str(
        judge(comparison, LIMITS)
    )


def test_limits_are_those_of_the_config_whatever_was_measured():
    comparison = healthy()
    for one in comparison.differences:
        one |= {"rms": 1e-2, "max_abs": 1.0}
    found = {one.limit_name: one.limit for one in judge(comparison, LIMITS).findings if one.limit_name}
    of_images = {name: limit for name, limit in LIMITS.items() if name not in {"golden", *OF_PAIRS, *OF_MAPS}}
    assert found == of_images | {"cosine": 1 - LIMITS["cosine"]}


@pytest.mark.parametrize(
    ("group", "limit", "figure"),
    [
        ("image_embeds", "embedding", "max_abs"),
        ("text_embeds", "embedding", "max_abs"),
        ("logits", "logit", "max_abs"),
        ("logits", "probability", "probability"),
    ],
)
@pytest.mark.parametrize("subject", [*RUNS, "equinox"])
def test_images_with_texts_are_judged_by_limits_of_their_own(group: str, limit: str, figure: str, subject: str):
    beyond = float(np.nextafter(LIMITS[limit], 1))
    for value, passed in ((LIMITS[limit], True), (beyond, False), (None, False)):
        comparison = healthy()
        changed = {"group": group, "max_abs": 0.0, "probability": 0.0} | {figure: value}
        comparison.differences.append(row(subject, REFERENCES[0], **changed))
        failed = [one for one in judge(comparison, LIMITS).findings if not one.passed]
        assert [(one.limit_name, one.subject, one.other) for one in failed] == (
            [] if passed else [(limit, subject, REFERENCES[0])]
        )


def test_what_a_known_difference_leaves_unexplained_is_judged():
    known = {
        "reference": "transformers",
        "cause": "its own periods",
        "max_abs": 0.25,
        "expected": 0.25,
        "unexplained": 9e-6,
    }
    known |= {"image": "cat", "height": 48, "width": 112, "floors": LIMITS["floors"], "floors_token": 3}
    comparison = replace(healthy(), known_differences=[known])
    assert judge(comparison, LIMITS).passed
    for floors in (1.1 * LIMITS["floors"], None):
        comparison = replace(healthy(), known_differences=[known, known | {"floors": floors}])
        (fault,) = judge(comparison, LIMITS).faults
        assert fault.startswith("transformers - onnx, error of a token (root mean square) in noise floors, without")
        assert "the effect of its own periods, which explains 2.5e-01 of a difference of 2.5e-01: " in fault


def test_published_features_are_judged_where_they_were_compared():
    comparison = healthy()
    comparison.differences.append(row("equinox", "published", max_abs=1.9e-3))
    assert judge(comparison, LIMITS).passed
    comparison.differences.append(row("onnx", "published", max_abs=2.1e-3))
    verdict = judge(comparison, LIMITS)
    assert {finding.leg for finding in verdict.findings} == {*LEGS, PUBLISHED}
    (fault,) = verdict.faults
    assert fault == "onnx, max |difference| from the published features: 2.10e-03 > 2.00e-03"


RECORD = {"weights": "official", "official_file": None}
CONFIGURED = BY_PRECISION["float32"] | BY_PRECISION["preprocessing"]
AS_PUBLISHED = {"other": "publisher", "image": "cat", "height": 48, "width": 112, "enlarged": 1.0}
AS_PUBLISHED |= {"grey_levels": 1.0, "differing_share": 0.01, "residual": 0.0}
SELF_TEST = Finding("self_test", "", 0.0, 0.0, detail="The checks caught 3 of 3 planted faults.")


def verdict_on(
    comparison: Comparison | None = None, *, share: float = 0.01, self_test: Finding | None = None
) -> Verdict:
    """The verdict of all gates on a comparison beside such a share of values at another grey level."""
    prepared = [AS_PUBLISHED | {"differing_share": share}]
    return judge_graph(comparison or healthy(), CONFIGURED, RECORD, prepared, None, self_test, bytes=7)


def test_all_gates_are_judged_at_once():
    verdict = verdict_on(self_test=SELF_TEST)
    assert verdict.passed
    assert verdict.asked == [*LEGS, "preprocessing", "self_test"]
    assert {finding.leg for finding in verdict.findings} == set(verdict.asked)
    assert verdict.figures == {
        **{"floors": 1.0, "worst_at": "cat 48x112, batch 1, cls 0", "floors_double": 1.0, "max_abs": 1e-6},
        **{"cosine": 1.0, "images": 1, "sizes": 1, "stages": 0, "kind": "image"},
    }
    failed = verdict_on(share=2 * PREPARED["differing_share"], self_test=replace(SELF_TEST, measured=1.0))
    assert list(failed.faults_by_gate()) == ["preprocessing", "self_test"]
    assert failed.faults[1] == "The checks caught 3 of 3 planted faults."


def test_a_gate_that_was_asked_for_and_has_no_finding_fails():
    verdict = replace(verdict_on(), asked=[*LEGS, "preprocessing", "stages"])
    assert verdict.faults_by_gate() == {"stages": ["nothing was found on the stages leg"]}


def test_a_verdict_that_was_written_and_read_is_the_same(tmp_path: Path):
    comparison = healthy()
    rows(comparison, "onnx", "truth")[0]["floors"] = None
    verdict = verdict_on(comparison)
    data = json.loads(json.dumps(verdict.as_data(), allow_nan=False))
    assert (data["passed"], data["missing"], data["confirmed"]) == (False, [], False)
    assert data["diagnosis"].startswith("The graph fails only if onnxruntime optimises it")
    # What it says of itself is not believed.
    for finding in data["findings"]:
        finding["passed"] = True
    write_json(tmp_path / "verdict.json", data | {"passed": True, "faults": []})
    again = Verdict.read(tmp_path / "verdict.json")
    assert again.faults == verdict.faults
    assert again.as_data() == verdict.as_data()


def test_weights_are_confirmed_by_their_hash_or_by_published_features_that_they_give():
    comparison = healthy()
    assert not verdict_on(comparison).confirmed
    assert replace(verdict_on(comparison), is_release=True).confirmed
    comparison.differences.append(row("equinox", "published", max_abs=1e-3))
    assert verdict_on(comparison).confirmed
    # That they were compared is not enough.
    comparison.differences.append(row("onnx", "published", max_abs=0.5))
    assert not verdict_on(comparison).confirmed
    assert list(verdict_on(comparison).faults_by_gate()) == [PUBLISHED]


FAR = 304.0


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (("onnx",), "The graph fails only if onnxruntime optimises it, so onnxruntime is at fault."),
        (RUNS, "In double precision the graph is right, so onnxruntime is at fault."),
        ((*RUNS, "onnx_float64"), "The Equinox model is within the limits and its graph is not, so the export is"),
        ((*RUNS, "equinox"), "The Equinox model is off too, so weights, model or reference are at fault."),
        (("equinox",), ""),
    ],
)
def test_the_part_at_fault_is_named(off: tuple[str, ...], said: str):
    comparison = healthy()
    for subject in off:
        for found in rows(comparison, subject, "truth"):
            found["floors"] = FAR
    assert verdict_on(comparison).diagnosis.startswith(said)
    assert bool(verdict_on(comparison).diagnosis) == bool(said)
    assert "make proof" not in replace(verdict_on(comparison), asked=[*LEGS, "stages"]).diagnosis
