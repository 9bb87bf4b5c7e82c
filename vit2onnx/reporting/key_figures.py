"""The few figures on top of the parity page, in plain words for readers who do not know the project."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vit2onnx.parity.divergence import TRUTH
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import severity, worst
from vit2onnx.parity.preprocessing import PUBLISHER
from vit2onnx.parity.verdict import DOUBLE_GRAPH, GRAPH_RUNS
from vit2onnx.reporting.evidence import Evidence, Judgement, differences
from vit2onnx.reporting.page import SUBJECTS, number, percent, plain

UNKNOWN = "unknown"


@dataclass(frozen=True)
class KeyFigure:
    """A figure, what it is, what it is held against, and whether that is kept."""

    figure: str
    what: str
    note: str
    good: bool


def key_figures(
    evidence: Evidence,
    judged: Collection[Judgement],
    stages: Sequence[Mapping[str, Any]],
    preprocessing: Mapping[str, Any],
    self_test: Mapping[str, Any] | None,
) -> list[KeyFigure]:
    """Five to seven figures; `judged` is what the gates say of each graph, the rest are sections of the page."""
    found = [_rounding(evidence, judged), _in_double(evidence, judged), _difference(evidence)]
    found += [_neighbours(evidence, judged), _preprocessing(preprocessing)]
    if stages:
        found.append(_stages(stages))
    if self_test:
        note = f"{self_test['named']} located; {self_test['flagged']} flagged"
        what = "faults planted on purpose were caught by these checks"
        found.append(KeyFigure(self_test["caught"], what, note, self_test["passed"]))
    return found


def _worst_of(judged: Collection[Judgement], limit_name: str) -> Finding:
    """What graphs are found to be by a limit: one that fails, or else the largest."""
    findings = [
        one
        for judgement in judged
        for one in judgement.outputs.findings
        if one.limit_name == limit_name and one.subject in (*GRAPH_RUNS, DOUBLE_GRAPH)
    ]
    nothing = Finding("", "", math.nan, math.nan)
    return max(findings, key=lambda one: (not one.passed, severity(one.measured)), default=nothing)


def _rounding(evidence: Evidence, judged: Collection[Judgement]) -> KeyFigure:
    rows = pd.concat([differences(one, GRAPH_RUNS, [TRUTH]) for one in evidence.comparisons])
    found = _worst_of(judged, "floors")
    figure = f"{found.measured:.2g} floors" if math.isfinite(found.measured) else UNKNOWN
    what = "largest error of a token in the ONNX files (one floor is ordinary rounding)"
    count = _rounded(int(rows["count"].sum()))
    return KeyFigure(figure, what, f"limit {found.limit:g} floors; {count} output numbers compared", found.passed)


def _rounded(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count}"


def _in_double(evidence: Evidence, judged: Collection[Judgement]) -> KeyFigure:
    rows = pd.concat([differences(one, [DOUBLE_GRAPH], [TRUTH]) for one in evidence.comparisons])
    found = _worst_of(judged, "floors_double")
    largest = float(rows["max_abs"].max(skipna=False))
    figure = number(largest) if math.isfinite(largest) else UNKNOWN
    what = "largest difference between ONNX and original, both computed in double precision"
    limit = f"limit {found.limit:g} noise floors of double precision"
    note = f"{number(found.measured)} noise floors; {limit}" if math.isfinite(found.measured) else limit
    return KeyFigure(figure, what, note, found.passed)


def _difference(evidence: Evidence) -> KeyFigure:
    rows = pd.concat([differences(one, GRAPH_RUNS, one["references"]) for one in evidence.comparisons])
    largest = float(rows["max_abs"].max(skipna=False))
    figure = plain(largest) if math.isfinite(largest) else UNKNOWN
    typical = plain(round(float(rows["scale"].median()), 1))
    what = "largest difference between ONNX and original in single precision"
    note = f"output numbers are around {typical}; no limit: the largest of so many errors is a matter of chance"
    return KeyFigure(figure, what, note, math.isfinite(largest))


def _neighbours(evidence: Evidence, judged: Collection[Judgement]) -> KeyFigure:
    rows = [row for one in evidence.comparisons for row in one["semantics"] if row["subject"] in GRAPH_RUNS]
    asked = [figures for row in rows for figures in row["neighbours"]]
    what = "of first neighbours (images, regions, patches) stay the same"
    found = _worst_of(judged, "neighbour_margin")
    if not asked or not all(row["finite"] for row in rows):
        return KeyFigure(UNKNOWN, what, "not finite, or nothing to look among", found.passed)
    share = min(figures["top_1"] for figures in asked)
    note = "and all others that were looked at"
    if share < 1 or found.measured > 0:
        limit = number(found.limit)
        note = f"neighbours that changed places differ by {number(found.measured)} of cosine; limit {limit}"
    return KeyFigure(percent(share), what, note, found.passed)


def _preprocessing(section: Mapping[str, Any]) -> KeyFigure:
    what = "of pixel values equal the publisher's"
    own = next((row for row in section["others"] if row["name"] == PUBLISHER), None)
    if own is None:
        return KeyFigure(UNKNOWN, what, "nothing was compared", False)
    least = percent(1 - section["limits"]["differing_share"]["limit"])
    note = f"at least {least}; the rest is at most {number(own['grey_levels'])} of 255 grey levels off"
    return KeyFigure(percent(1 - own["differing_share"]), what, note, not section["faults"])


def _stages(sections: Sequence[Mapping[str, Any]]) -> KeyFigure:
    limit = f"limit {sections[0]['limit']:g}"
    if first := next((one["divergence"] for one in sections if one["divergence"]), None):
        note = f"there {SUBJECTS[first.subject]} and {SUBJECTS[first.other]} part; {limit} noise floors"
        return KeyFigure(first.stage, "is the first stage that is wrong", note, False)
    if faults := [fault for one in sections for fault in one["faults"]]:
        return KeyFigure(UNKNOWN, "whether a stage is wrong", faults[0], False)
    largest = number(worst(one["largest"] for one in sections))
    what = "stages inside the network are wrong"
    return KeyFigure(f"0 of {sections[0]['count']}", what, f"at most {largest} noise floors apart; {limit}", True)
