"""The few figures on top of the parity page, in plain words for readers who do not know the project."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vit2onnx.parity.metrics import worst
from vit2onnx.parity.preprocessing import PUBLISHER
from vit2onnx.parity.verdict import GRAPH_RUNS, limit_factor, truth_ratio
from vit2onnx.reporting.evidence import Evidence, LimitsByGate, differences
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
    limits: LimitsByGate,
    stages: Sequence[Mapping[str, Any]],
    preprocessing: Mapping[str, Any],
    self_test: Mapping[str, Any] | None,
) -> list[KeyFigure]:
    """Three to six figures; `stages`, `preprocessing` and `self_test` are sections of the page."""
    found = [_difference(evidence, limits), _exactness(evidence, limits), _neighbours(evidence, limits)]
    found.append(_preprocessing(preprocessing))
    if stages:
        found.append(_stages(stages))
    if self_test:
        note = f"the stage of {self_test['named']} was named, {self_test['flagged']} flagged"
        what = "faults planted on purpose were caught by these checks"
        found.append(KeyFigure(self_test["caught"], what, note, self_test["passed"]))
    return found


def _difference(evidence: Evidence, limits: LimitsByGate) -> KeyFigure:
    rows = pd.concat([differences(one, GRAPH_RUNS, one["references"]) for one in evidence.comparisons])
    limit = limits["limits"]["max_abs"]["limit"] * limit_factor(rows["scale"])
    most = float(rows["max_abs"].max(skipna=False))
    what = f"largest difference between ONNX and original in {_rounded(int(rows['count'].sum()))} output numbers"
    figure = plain(most) if math.isfinite(most) else UNKNOWN
    return KeyFigure(figure, what, f"limit {plain(limit)}; the numbers are around 1", most <= limit)


def _rounded(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count}"


def _exactness(evidence: Evidence, limits: LimitsByGate) -> KeyFigure:
    limit = limits["limits"]["truth_ratio"]["limit"]
    ratio = worst(truth_ratio(one) for one in evidence.comparisons)
    figure = f"{ratio:.3g} x" if math.isfinite(ratio) else UNKNOWN
    what = "the ONNX file's rounding error, against the original's"
    return KeyFigure(figure, what, f"limit {limit:g} x", ratio <= limit)


def _neighbours(evidence: Evidence, limits: LimitsByGate) -> KeyFigure:
    rows = [row for one in evidence.comparisons for row in one["semantics"] if row["subject"] in GRAPH_RUNS]
    asked = [figures for row in rows for figures in row["neighbours"]]
    what = "of nearest neighbours (images, regions, patches) stay the same"
    if not asked or not all(row["finite"] for row in rows):
        return KeyFigure(UNKNOWN, what, "not finite, or nothing to look among", False)
    share = min(figures["top_1"] for figures in asked)
    margin = max(figures["margin"] for figures in asked)
    limit = limits["limits"]["neighbour_margin"]["limit"]
    note = "none was exchanged"
    if share < 1 or margin > 0:
        note = f"exchanged ones differ by {number(margin)} of cosine; limit {number(limit)}"
    return KeyFigure(percent(share), what, note, margin <= limit)


def _preprocessing(section: Mapping[str, Any]) -> KeyFigure:
    what = "of pixel values equal the publisher's"
    own = next((row for row in section["others"] if row["name"] == PUBLISHER), None)
    if own is None:
        return KeyFigure(UNKNOWN, what, "nothing was compared", False)
    least = percent(1 - section["limits"]["share"]["limit"])
    note = f"at least {least}; the rest is at most {number(own['levels'])} of 255 grey levels off"
    return KeyFigure(percent(1 - own["share"]), what, note, not section["faults"])


def _stages(sections: Sequence[Mapping[str, Any]]) -> KeyFigure:
    limit = f"limit {sections[0]['limit']:g}"
    if first := next((one["divergence"] for one in sections if one["divergence"]), None):
        note = f"there {SUBJECTS[first.subject]} and {SUBJECTS[first.other]} part; {limit} noise floors"
        return KeyFigure(first.stage, "is the first stage that goes wrong", note, False)
    if faults := [fault for one in sections for fault in one["faults"]]:
        return KeyFigure(UNKNOWN, "whether a stage goes wrong", faults[0], False)
    largest = number(worst(one["largest"] for one in sections))
    what = "stages inside the network go wrong"
    return KeyFigure(f"0 of {sections[0]['count']}", what, f"at most {largest} noise floors apart; {limit}", True)
