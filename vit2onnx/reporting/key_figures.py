"""The few figures on top of the parity page, in plain words for readers who do not know the project."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vit2onnx.parity.comparison import largest
from vit2onnx.parity.finding import Finding
from vit2onnx.parity.metrics import severity, worst
from vit2onnx.parity.preprocessing import PUBLISHER
from vit2onnx.reporting.evidence import Evidence, table_of
from vit2onnx.reporting.page import SUBJECTS, cosine, number, percent, plain
from vit2onnx.spec.subject import DOUBLE_GRAPH, GRAPH_RUNS, TRUTH

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
    stages: Sequence[Mapping[str, Any]],
    preprocessing: Mapping[str, Any],
    self_test: Mapping[str, Any] | None,
) -> list[KeyFigure]:
    """A few figures, from the verdicts and from sections of the page."""
    by_precision = _by_precision(evidence)
    single = by_precision.pop("float32", None)
    figures = []
    if single:
        figures += [_rounding(single), _in_double(single), _difference(single), _neighbours(single)]
    figures += [_small(one, precision) for precision, one in by_precision.items()]
    if any(comparison.kind != "text" for comparison in evidence.comparisons):
        figures.append(_preprocessing(preprocessing))
    if stages:
        figures.append(_stages(stages))
    if self_test:
        note = f"{self_test['named']} located; {self_test['flagged']} flagged"
        what = "faults planted on purpose were caught by these checks"
        figures.append(KeyFigure(self_test["caught"], what, note, self_test["passed"]))
    return figures


def _by_precision(evidence: Evidence) -> dict[str, Evidence]:
    """The evidence on the graphs of each precision."""
    pairs = list(zip(evidence.verdicts, evidence.comparisons, strict=True))
    found = {}
    for precision in sorted({verdict.precision for verdict in evidence.verdicts}):
        verdicts, comparisons = zip(*(pair for pair in pairs if pair[0].precision == precision), strict=True)
        found[precision] = replace(evidence, verdicts=verdicts, comparisons=comparisons)
    return found


def _small(evidence: Evidence, precision: str) -> KeyFigure:
    finding = _worst_of(evidence, "cosine")
    figure = cosine(1 - finding.measured) if math.isfinite(finding.measured) else UNKNOWN
    what = f"lowest cosine of a token of the {precision} files with the original"
    return KeyFigure(figure, what, f"limit {1 - finding.limit:g}", finding.passed)


def _worst_of(evidence: Evidence, limit_name: str) -> Finding:
    """What graphs are found to be by a limit: one that fails, or else the largest."""
    findings = [
        finding
        for verdict in evidence.verdicts
        for finding in verdict.findings
        if finding.limit_name == limit_name and finding.subject in (*GRAPH_RUNS, DOUBLE_GRAPH)
    ]
    nothing = Finding("", "", math.nan, math.nan)
    return max(findings, key=lambda one: (not one.passed, severity(one.measured)), default=nothing)


def _rounding(evidence: Evidence) -> KeyFigure:
    finding = _worst_of(evidence, "floors")
    figure = f"{finding.measured:.2g} floors" if math.isfinite(finding.measured) else UNKNOWN
    what = "largest error of a token in single precision (one floor is ordinary rounding)"
    count = _rounded(sum(row["count"] for one in evidence.comparisons for row in one.rows_of("graph")))
    return KeyFigure(figure, what, f"limit {finding.limit:g} floors; {count} output numbers compared", finding.passed)


def _rounded(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count}"


def _in_double(evidence: Evidence) -> KeyFigure:
    finding = _worst_of(evidence, "floors_double")
    most = largest(row for one in evidence.comparisons for row in one.rows(DOUBLE_GRAPH, TRUTH))
    figure = number(most) if math.isfinite(most) else UNKNOWN
    what = "largest difference between ONNX and original, both computed in double precision"
    limit = f"limit {finding.limit:g} noise floors of double precision"
    note = f"{number(finding.measured)} noise floors; {limit}" if math.isfinite(finding.measured) else limit
    return KeyFigure(figure, what, note, finding.passed)


def _difference(evidence: Evidence) -> KeyFigure:
    rows = table_of(row for comparison in evidence.comparisons for row in comparison.of_graph())
    most = float(rows["max_abs"].max(skipna=False))
    figure = plain(most) if math.isfinite(most) else UNKNOWN
    typical = plain(round(float(rows["scale"].median()), 1))
    what = "largest difference between ONNX and original in single precision"
    note = f"output numbers are around {typical}; no limit: the largest of so many errors is a matter of chance"
    return KeyFigure(figure, what, note, math.isfinite(most))


def _neighbours(evidence: Evidence) -> KeyFigure:
    rows = [row for one in evidence.comparisons for row in one.semantics if row["subject"] in GRAPH_RUNS]
    asked = [figures for row in rows for figures in row["neighbours"]]
    what = "of first neighbours (images, regions, patches) stay the same"
    finding = _worst_of(evidence, "neighbour_margin")
    if not asked or not all(row["finite"] for row in rows):
        return KeyFigure(UNKNOWN, what, "not finite, or nothing to look among", finding.passed)
    share = min(figures["top_1"] for figures in asked)
    note = "and so do all further neighbours that were compared"
    if share < 1 or finding.measured > 0:
        limit = number(finding.limit)
        note = f"neighbours that changed places differ by {number(finding.measured)} of cosine; limit {limit}"
    return KeyFigure(percent(share), what, note, finding.passed)


def _preprocessing(section: Mapping[str, Any]) -> KeyFigure:
    what = "of pixel values equal those of the original"
    own = next((row for row in section["others"] if row["name"] == PUBLISHER), None)
    if own is None:
        return KeyFigure(UNKNOWN, what, "nothing was compared", False)
    least = percent(1 - section["limits"]["differing_share"]["limit"])
    note = f"limit: at least {least}; the largest difference is {number(own['grey_levels'])} of 255 grey levels"
    return KeyFigure(percent(1 - own["differing_share"]), what, note, not section["faults"])


def _stages(sections: Sequence[Mapping[str, Any]]) -> KeyFigure:
    limit = f"limit {sections[0]['limit']:g}"
    if first := next((one["divergence"] for one in sections if one["divergence"]), None):
        note = f"there {SUBJECTS[first.subject]} and {SUBJECTS[first.other]} part; {limit} noise floors"
        return KeyFigure(first.stage, "is the first stage that is wrong", note, False)
    if faults := [fault for one in sections for fault in one["faults"]]:
        return KeyFigure(UNKNOWN, "whether a stage is wrong", faults[0], False)
    most = number(worst(one["largest"] for one in sections))
    what = "stages inside the network are wrong"
    return KeyFigure(f"0 of {sections[0]['count']}", what, f"at most {most} noise floors apart; {limit}", True)
